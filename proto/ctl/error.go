package ctl

import "errors"

// Error is a refusal or a failure, for people and for exit codes.
type Error struct {
	Code    int    `json:"code"` // an exit code of package proto
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"` // what to do next
}

// Error returns the message and the hint.
func (e *Error) Error() string {
	if e.Hint == "" {
		return e.Message
	}
	return e.Message + ". " + e.Hint
}

// AsError returns err in the form of the protocol; code is for errors that carry none. nil stays nil.
func AsError(err error, code int) *Error {
	var e *Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &e):
		return e
	}
	return &Error{Code: code, Message: err.Error()}
}

// NamedError is an error about one resource among several; the others were served.
type NamedError struct {
	Name  string `json:"name"`
	Error Error  `json:"error"`
}
