package control

import (
	"bufio"
	"net/http"
	"net/http/httptest"
	"strings"
)

// record lets h answer a request given as text.
func record(h http.Handler, text string) (int, []byte) {
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(text)))
	if err != nil {
		panic(err)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Code, w.Body.Bytes()
}
