package proto

// Op is what is asked of a device, a disk or a peer. The zero value is invalid.
type Op uint8

// The operations.
const (
	OpRead Op = iota + 1
	OpWrite
	OpZero // write zeroes; may unmap unless told not to
	OpFlush
)

// String returns a word for logs and traces.
func (o Op) String() string {
	switch o {
	case OpRead:
		return "read"
	case OpWrite:
		return "write"
	case OpZero:
		return "zero"
	case OpFlush:
		return "flush"
	}
	return "invalid"
}

// Errno is the outcome of an operation by the NBD protocol's error numbers,
// which are Linux's. Only the values below cross an interface.
type Errno uint32

// The errors.
const (
	OK        Errno = 0
	EPERM     Errno = 1
	EIO       Errno = 5
	ENOMEM    Errno = 12
	EINVAL    Errno = 22
	ENOSPC    Errno = 28
	EOVERFLOW Errno = 75
	ENOTSUP   Errno = 95
	ESHUTDOWN Errno = 108
)

// Error makes a non-zero Errno usable as an error.
func (e Errno) Error() string {
	switch e {
	case OK:
		return "ok"
	case EPERM:
		return "operation not permitted"
	case EIO:
		return "input/output error"
	case ENOMEM:
		return "out of memory"
	case EINVAL:
		return "invalid request"
	case ENOSPC:
		return "no space left"
	case EOVERFLOW:
		return "request too large"
	case ENOTSUP:
		return "not supported"
	case ESHUTDOWN:
		return "shutting down"
	}
	return "unknown error"
}
