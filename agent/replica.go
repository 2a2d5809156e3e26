package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/understudy-dr/understudy/pkg/desired"
	"github.com/understudy-dr/understudy/pkg/obs"
	"github.com/understudy-dr/understudy/pkg/ready"
)

// smbiosTables are the firmware's strings, as Linux shows them to root.
const smbiosTables = "firmware/dmi/tables/DMI"

// replicaOf is the failover that this machine is a replica of; empty if it is none. A
// replica is a copy to the last byte, identity and all: only its firmware tells them
// apart.
func (s system) replicaOf() string {
	tables, err := os.ReadFile(filepath.Join(s.sys, smbiosTables))
	if err != nil {
		return "" // no SMBIOS, no replica of ours
	}
	_, mark, found := bytes.Cut(tables, []byte(desired.ReplicaMark))
	if !found {
		return ""
	}
	id, _, _ := bytes.Cut(mark, []byte{0}) // strings end so
	return string(id)
}

// beatAgain is how soon a replica tries again to say that it is up. Once said is enough:
// its host keeps the line.
const beatAgain = 5 * time.Second

// keepSilent is what the agent of a replica does: nothing that its source's would. Two
// that speak as one machine would ruin its log.
func keepSilent(ctx context.Context, failover string, log *slog.Logger) error {
	log.Warn("this machine is a replica: the agent protects nothing, and says nothing in its source's name", "failover", failover)
	if err := ready.Tell(ctx); err != nil {
		log.Warn("the service manager was not told", "err", err)
	}
	for ctx.Err() == nil {
		err := beat(thisSystem, failover)
		if err == nil {
			<-ctx.Done()
			break
		}
		log.Debug("heartbeat", "err", err)
		pause(ctx, beatAgain)
	}
	return nil
}

// beat says on the replica's own line to its host that the machine is up.
func beat(s system, failover string) error {
	port, err := s.heartbeatPort()
	if err != nil {
		return err
	}
	f, err := os.OpenFile(port, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	name, err := os.Hostname()
	if err != nil {
		name = "unknown"
	}
	_, err = fmt.Fprintf(f, "understudy-agent %s: %s is up, as a replica of failover %s\n", obs.BuildVersion(), name, failover)
	return err
}

// heartbeatPort finds the device by its name: udev's links are not there in every system.
func (s system) heartbeatPort() (string, error) {
	names, _ := filepath.Glob(filepath.Join(s.sys, "class/virtio-ports/*/name")) // fails for a bad pattern only
	for _, name := range names {
		if b, err := os.ReadFile(name); err == nil && string(bytes.TrimSpace(b)) == desired.HeartbeatPort {
			return filepath.Join("/dev", filepath.Base(filepath.Dir(name))), nil
		}
	}
	return "", fmt.Errorf("this machine has no port %s", desired.HeartbeatPort)
}
