// Package aio is the kernel's asynchronous I/O (io_submit) for one file in
// direct I/O: a whole batch of reads and writes with one system call, and
// completions that are taken from memory that the kernel shares, without any.
//
// It never waits in submission: what the kernel would have to wait for (space to allocate, a full
// queue) comes back as EAGAIN, and the caller does it in another way. It retries nothing and flushes nothing. It is not
// io_uring, which many distributions and containers disable.
//
// hastd/store and hastd/engine use it.
package aio
