# Two static binaries and their files, and what proves them. README's two commands are "make demo" and "make test".
GO      ?= go
PREFIX  ?= /usr
SBINDIR ?= $(PREFIX)/sbin
BINDIR  ?= $(PREFIX)/bin
MANDIR  ?= $(PREFIX)/share/man
SYSCONF ?= /etc
UNITDIR ?= $(PREFIX)/lib/systemd/system
DESTDIR ?=
# The commit; git is told that the checkout may be another user's. Without git, as from an archive, the newest entry of the changelog.
VERSION ?= $(shell git -c safe.directory='$(CURDIR)' describe --tags --always --dirty 2>/dev/null || ls docs/changelog | sed -n '$$s/^\([0-9]*\)-.*/changelog-\1/p')

# Static: the worker runs in an empty directory, and system calls that concern
# all threads need Go's own implementation.
export CGO_ENABLED = 0

.PHONY: all build install clean demo test sim mutations soak bench fuzz

all: build

build:
	$(GO) build -trimpath -buildvcs=false -ldflags '-s -w -X main.version=$(VERSION)' -o bin/hastd ./cmd/hastd
	$(GO) build -trimpath -buildvcs=false -ldflags '-s -w -X main.version=$(VERSION)' -o bin/hastctl ./cmd/hastctl

install: build
	install -d $(DESTDIR)$(SBINDIR) $(DESTDIR)$(BINDIR) $(DESTDIR)$(MANDIR)/man5 $(DESTDIR)$(MANDIR)/man8
	install -d $(DESTDIR)$(UNITDIR) $(DESTDIR)$(SYSCONF)/init.d
	install -d -m 0755 $(DESTDIR)$(SYSCONF)/hast
	install -m 0755 bin/hastd $(DESTDIR)$(SBINDIR)/hastd
	install -m 0755 bin/hastctl $(DESTDIR)$(BINDIR)/hastctl
	install -m 0644 docs/man/hastd.8 docs/man/hastctl.8 $(DESTDIR)$(MANDIR)/man8/
	install -m 0644 docs/man/hast.toml.5 $(DESTDIR)$(MANDIR)/man5/
	sed -e 's,/usr/sbin/hastd,$(SBINDIR)/hastd,' -e 's,/usr/bin/hastctl,$(BINDIR)/hastctl,' etc/hastd.service > $(DESTDIR)$(UNITDIR)/hastd.service
	sed -e 's,/usr/sbin/hastd,$(SBINDIR)/hastd,' etc/init.d/hastd > $(DESTDIR)$(SYSCONF)/init.d/hastd
	chmod 0644 $(DESTDIR)$(UNITDIR)/hastd.service
	chmod 0755 $(DESTDIR)$(SYSCONF)/init.d/hastd
	install -m 0644 etc/hast.toml $(DESTDIR)$(SYSCONF)/hast/hast.toml.example

clean:
	rm -rf bin

# The story: two nodes, a repository, a primary killed in mid-commit. Under two minutes; needs root.
demo: build
	@sh test/setup.sh
	@$(GO) run ./test/demo -bin bin

# Everything that needs no guest kernel; needs root. The simulator plays fresh seeds each time, and a fixed range. Packages run one after the other where they time things or make devices.
SEEDS ?= 3000
START ?=
test:
	sh test/setup.sh
	$(GO) vet ./...
	CI=true SIM_SEEDS=3000 $(GO) test -count=1 -p 2 -timeout 5m $$($(GO) list ./... | grep -v -e /test/e2e -e /device/fuse)
	CI=true $(GO) test -count=1 -timeout 9m ./hastd/device/fuse
	CI=true $(GO) test -count=1 -timeout 15m ./test/e2e

# One range of seeds: make sim SEEDS=100000 START=1
sim:
	SIM_SEEDS=$(SEEDS) SIM_START=$(START) $(GO) test -count=1 -timeout 2h -run 'TestSeeds' -v ./test/sim

# Each deliberate breakage, until its named checker catches it.
mutations:
	$(GO) test -count=1 -timeout 2h -v ./test/sim/mutation -args -all

soak:
	SIM_SEEDS=100000 $(GO) test -count=1 -timeout 4h -run 'TestSeeds' -v ./test/sim
	$(GO) test -count=5 -timeout 2h ./test/e2e

bench: build
	$(GO) run ./test/bench -bin bin
	$(GO) test -run '^$$' -bench . -benchtime 2s ./hastd/engine

# Every parser for a minute.
FUZZTIME ?= 60s
fuzz:
	@for p in $$($(GO) list ./...); do for f in $$($(GO) test -list '^Fuzz' $$p | grep '^Fuzz'); do \
	  echo "$$p $$f"; $(GO) test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) $$p || exit 1; done; done
