package proto

// Exit codes of both programs: sysexits(3), as HAST uses them, and HAST's
// per-resource codes (hastctl(8)).
const (
	ExitOK          = 0
	ExitNoResource  = 1  // no such resource
	ExitInvalid     = 2  // the daemon refused the request as invalid
	ExitRefused     = 3  // understood, and refused for the data's sake
	ExitUsage       = 64 // EX_USAGE
	ExitData        = 65 // EX_DATAERR: unknown resource or bad size in create and dump
	ExitNoInput     = 66 // EX_NOINPUT: cannot open the device
	ExitUnavailable = 69 // EX_UNAVAILABLE: the daemon went away
	ExitSoftware    = 70 // EX_SOFTWARE: the daemon failed internally
	ExitOS          = 71 // EX_OSERR: cannot connect or listen
	ExitOSFile      = 72 // EX_OSFILE: cannot open the configuration
	ExitIO          = 74 // EX_IOERR
	ExitTemp        = 75 // EX_TEMPFAIL: already running, out of memory
	ExitConfig      = 78 // EX_CONFIG: configuration or privilege drop
	ExitMetadata    = 255
)
