package proto

// Offset is a position in, or a size of, a resource's data, in bytes from the
// start of the data area.
type Offset uint64

// Length is the length of one request in bytes. A request never exceeds
// MaxRequest, or MaxZero for one without payload.
type Length uint32

// BlockSize is the granularity of the dirty bitmap in bytes.
const BlockSize = 4096

// MaxRequest is the largest read or write that crosses any interface, in bytes.
// Front-ends split what is larger. 1 MiB is what FUSE and loop send at most.
const MaxRequest Length = 1 << 20

// MaxName is the longest resource or device name in bytes: it has to fit the
// preamble and, as /dev/hast/NAME, a path component.
const MaxName = 64

// DefaultPort is HAST's TCP port.
const DefaultPort = 8457
