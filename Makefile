# Two static binaries and their files. Other targets are in the files that this one includes, if any.
GO      ?= go
PREFIX  ?= /usr
SBINDIR ?= $(PREFIX)/sbin
BINDIR  ?= $(PREFIX)/bin
MANDIR  ?= $(PREFIX)/share/man
SYSCONF ?= /etc
UNITDIR ?= $(PREFIX)/lib/systemd/system
DESTDIR ?=
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)

# Static: the worker runs in an empty directory, and system calls that concern
# all threads need Go's own implementation.
export CGO_ENABLED = 0

.PHONY: all build install clean

all: build

build:
	$(GO) build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o bin/hastd ./cmd/hastd
	$(GO) build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o bin/hastctl ./cmd/hastctl

install: build
	install -d $(DESTDIR)$(SBINDIR) $(DESTDIR)$(BINDIR) $(DESTDIR)$(MANDIR)/man5 $(DESTDIR)$(MANDIR)/man8
	install -d $(DESTDIR)$(UNITDIR) $(DESTDIR)$(SYSCONF)/init.d
	install -d -m 0755 $(DESTDIR)$(SYSCONF)/hast
	install -m 0755 bin/hastd $(DESTDIR)$(SBINDIR)/hastd
	install -m 0755 bin/hastctl $(DESTDIR)$(BINDIR)/hastctl
	install -m 0644 docs/man/hastd.8 docs/man/hastctl.8 $(DESTDIR)$(MANDIR)/man8/
	install -m 0644 docs/man/hast.toml.5 $(DESTDIR)$(MANDIR)/man5/
	install -m 0644 etc/hastd.service $(DESTDIR)$(UNITDIR)/hastd.service
	install -m 0755 etc/init.d/hastd $(DESTDIR)$(SYSCONF)/init.d/hastd
	install -m 0644 etc/hast.toml $(DESTDIR)$(SYSCONF)/hast/hast.toml.example

clean:
	rm -rf bin
