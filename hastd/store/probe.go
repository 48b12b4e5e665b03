package store

import (
	"bytes"
	"fmt"
	"os"

	"hast/extent"
)

// signatures are the marks by which operators know what they are about to overwrite.
var signatures = []struct {
	off  int64
	text string
	name string
}{
	{0x438, "\x53\xef", "an ext2, ext3 or ext4 file system"},
	{0, "XFSB", "an XFS file system"},
	{0x10040, "_BHRfS_M", "a Btrfs file system"},
	{4096 - 10, "SWAPSPACE2", "swap space"},
	{512, "LABELONE", "an LVM physical volume"},
	{0, "LUKS\xba\xbe", "a LUKS volume"},
	{512, "EFI PART", "a GPT partition table"},
	{4096, "\xfc\x4e\x2b\xa9", "an MD RAID member"},
	{510, "\x55\xaa", "a partition table or boot sector"},
}

// probe says what is on a device, or "" if its ends are blank.
func probe(f *os.File, dev int64) (string, error) {
	if slots, ok := extent.FindSuper(dev); ok {
		b := align(extent.SuperArea)
		if err := readAt(f, b, slots[0]); err != nil {
			return "", fmt.Errorf("%s: %w", f.Name(), err)
		}
		if sb, _, err := extent.PickSuperblock(b[:extent.SuperSize], b[extent.SuperSize:]); err == nil {
			return fmt.Sprintf("HAST metadata of resource %s, generation %s", sb.Name, sb.Current.Short()), nil
		}
	}
	const part = 1 << 20
	buf := align(part)
	for i, off := range [2]int64{0, max(0, dev&^4095-part)} {
		b := buf[:min(part, dev&^4095-off)]
		if err := readAt(f, b, off); err != nil {
			return "", fmt.Errorf("%s: reading %d bytes at %d: %w", f.Name(), len(b), off, err)
		}
		if i == 0 {
			for _, s := range signatures {
				if s.off+int64(len(s.text)) <= int64(len(b)) && bytes.Equal(b[s.off:s.off+int64(len(s.text))], []byte(s.text)) {
					return s.name, nil
				}
			}
		}
		for j, c := range b {
			if c != 0 {
				return fmt.Sprintf("something unknown: byte %d is not zero", off+int64(j)), nil
			}
		}
	}
	return "", nil
}
