// Package sock reads and writes connected stream sockets with blocking system calls, past Go's poller.
//
// The poller is what a server of many connections wants. A worker has a handful, and what counts is the time from a byte's arrival
// to the instruction that looks at it. With the poller a reader makes two more system calls for each wait (the read that finds nothing,
// epoll_wait), and an idle thread of the runtime is woken for events that nobody waits for: a unix
// socket reports room for writing whenever the peer has read something. Here a reader is a thread in read(2), which the
// kernel wakes directly.
//
// hastd/device/nbdserver and hastd/peer use it. It knows nothing of what crosses a socket.
package sock
