# Understudy. `make demo` and `make test` are the two commands; the rest serves them.
# Everything runs as root on Debian 12 with Go and git; what else is needed is
# installed by scripts/setup.sh.

VERSION ?= $(shell git describe --always --dirty 2>/dev/null || echo unknown)
LDFLAGS  = -s -w -X github.com/understudy-dr/understudy/pkg/obs.Version=$(VERSION)
GO       = CGO_ENABLED=0 go
FUZZTIME ?= 10m

# Packages where a data race would cost data.
RACE = ./pkg/... ./agent/journal/... ./agent/ship/... ./agent/pipeline/... ./controlplane/relay/... ./controlplane/recovery/... ./controlplane/objstore/...

SHELL = /bin/bash
.SHELLFLAGS = -o pipefail -c

.PHONY: all build test race fuzz lint check generate crossbuild packages demo bench bench-quick microbench testbed testbed-short guest-load guests-short matrix costs simulate clean

all: build

build:
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/understudy ./controlplane
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/understudy-agent ./agent

# deb and rpm of the agent and of the control plane, into dist/: make packages VERSION=1.2.0
packages:
	scripts/setup.sh packages
	scripts/packages.sh '$(VERSION)' dist

# All tests that need nothing but this machine.
test:
	scripts/setup.sh test
	$(GO) test -timeout 15m $$(go list ./... | grep -v /installer/)
	$(GO) test -timeout 15m ./installer/... # by itself: its mount namespaces hold what others have mounted
	$(MAKE) --no-print-directory race

race:
	scripts/setup.sh race
	CGO_ENABLED=1 go test -race -short -timeout 15m $(RACE)

# All fuzz targets for FUZZTIME together.
fuzz:
	scripts/fuzz.sh $(FUZZTIME)

lint:
	scripts/setup.sh lint
	golangci-lint run ./...

# The agent must build for what we cannot run here, and the committed BPF objects must
# be what their source gives.
check: crossbuild lint
	@test -z "$$(gofmt -l agent controlplane installer pkg testbed)" || { echo "gofmt: these files need it:"; gofmt -l agent controlplane installer pkg testbed; exit 1; }
	$(GO) vet ./...
	scripts/setup.sh generate
	scripts/check-generated.sh

crossbuild:
	GOOS=windows GOARCH=amd64 $(GO) build -o /dev/null ./agent
	GOOS=linux GOARCH=arm64 $(GO) build -o /dev/null ./agent
	GOOS=windows GOARCH=amd64 $(GO) vet ./agent/... ./pkg/...

generate:
	scripts/setup.sh generate
	scripts/generate.sh

demo: build
	scripts/setup.sh demo
	$(GO) build -trimpath -o bin/demo ./testbed/demo
	bin/demo -bin bin

# What protection costs and what recovery takes, beside other tools: one table, a JSON
# and the page; about half an hour on a machine that does nothing else. bench-quick tries a
# change in a few minutes, and changes no page. ONLY=PATTERN measures some cases (bin/bench -list).
ONLY ?=
bench: build
	scripts/setup.sh bench
	$(GO) build -trimpath -o bin/bench ./testbed/bench
	bin/bench -bin bin -only '$(ONLY)' -json testbed/RESULTS.json -page testbed/RESULTS.md -readme README.md

bench-quick: build
	scripts/setup.sh bench
	$(GO) build -trimpath -o bin/bench ./testbed/bench
	bin/bench -bin bin -only '$(ONLY)' -quick

# What single functions cost.
microbench:
	scripts/setup.sh bench
	$(GO) test -run '^$$' -bench . -benchtime 1s -count 5 ./pkg/frame ./agent/... ./controlplane/...

# Every scenario against the real binaries; testbed-short are those .ci/run has time for,
# the prefix proof among them in its short form.
testbed: build guest-load
	scripts/setup.sh test
	scripts/setup.sh testbed
	$(GO) test -count 1 -p 1 -timeout 4h -tags testbed ./testbed ./testbed/guest/...

# What guests of the testbed are busy with; their images are in .cache/guests.
guest-load:
	$(GO) build -trimpath -ldflags '-s -w' -o bin/guest-load ./testbed/guest/load

SHORT = TestPrefixProof|TestReplicaEqualsSource|TestAgentKilledUnderLoad|TestControlPlaneKilledUnderLoad|TestRingOverflow|TestUncleanStop|TestGuestCannotTouchItsPast|TestServedEqualsMaterialised|TestPointsAreLocked|TestVaultAloneIsEnough|TestDiskGrows|TestDiskGone|TestTwoAgentsWithOneIdentity|TestJournalOnAProtectedDisk|TestVerifyFindsEachSide|TestApplicationConsistentPoint|TestPostgreSQLPoint
testbed-short: build
	scripts/setup.sh test
	scripts/setup.sh testbed
	$(GO) test -count 1 -short -timeout 20m -tags testbed -run '^($(SHORT))$$' -v ./testbed | grep -E '^(---|ok|FAIL|panic|    [a-z_]+_test.go)'

# The shortest lives of real machines, for .ci/run: an image and some boots, ten minutes.
GUESTS = TestGuestPowerCut|TestRootDiskCleanReboot
guests-short: build guest-load
	scripts/setup.sh test
	scripts/setup.sh testbed
	$(GO) test -count 1 -timeout 30m -tags testbed -run '^($(GUESTS))$$' -v ./testbed

# Kernels, buses and what disks are made of: each a guest that is protected, recovered and
# judged, four minutes or so. The page is testbed/MATRIX.md. ONLY=PATTERN tries some.
matrix: build guest-load
	scripts/setup.sh test
	scripts/setup.sh testbed
	$(GO) test -count 1 -timeout 3h -tags testbed -run 'TestMatrix$(if $(ONLY),/$(ONLY))' -v ./testbed

# What protection costs in a guest: PostgreSQL, memory, a boot. The page is
# testbed/COSTS.md; on a machine that does something else the figures are worth nothing.
costs: build guest-load
	scripts/setup.sh testbed
	$(GO) test -count 1 -timeout 2h -tags testbed -run '^TestHiddenCosts$$' -v ./testbed

# Random lives of a machine, its relays and its vault in fake time, and the mutants that
# must be caught; what was reached goes to testbed/out/sim.json. See testbed/sim/README.md.
SCHEDULES ?= 100000
simulate:
	mkdir -p testbed/out
	$(GO) test -count 1 -timeout 2h -v ./testbed/sim -run '^(TestSchedules|TestMutants)$$' -sim.schedules=$(SCHEDULES) -sim.json=$(CURDIR)/testbed/out/sim.json

clean:
	rm -rf bin dist
