package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	kardianos "github.com/kardianos/service"

	"github.com/understudy-dr/understudy/installer/linux/units"
	"github.com/understudy-dr/understudy/pkg/problem"
)

// serviceName is the agent's name to systemd and to Windows.
const serviceName = "understudy-agent"

// packagedUnits are where a distribution's package puts the agent's unit.
var packagedUnits = []string{"/usr/lib/systemd/system/understudy-agent.service", "/lib/systemd/system/understudy-agent.service"}

// ownUnit is where install has the service manager of Linux put the agent's unit.
const ownUnit = "/etc/systemd/system/understudy-agent.service"

// installedProgram is where install puts the program: a place that no user can write to
// and that is there when the machine starts.
func installedProgram() string {
	if runtime.GOOS == "windows" {
		return filepath.Join(os.Getenv("ProgramFiles"), "Understudy", "understudy-agent.exe")
	}
	return "/usr/local/bin/understudy-agent"
}

// manager is the agent as the system's service manager knows it.
func manager(program kardianos.Interface) (kardianos.Service, error) {
	s, err := kardianos.New(program, &kardianos.Config{
		Name:        serviceName,
		DisplayName: "Understudy agent",
		Description: "Captures the block writes of this machine and ships them",
		Executable:  installedProgram(),
		Arguments:   []string{"run"},
		Option:      kardianos.KeyValue{"SystemdScript": strings.ReplaceAll(units.Agent, units.AgentPath, installedProgram())},
	})
	if err != nil {
		return nil, fmt.Errorf("the service manager: %w", err)
	}
	if runtime.GOOS == "linux" && s.Platform() != "linux-systemd" {
		return nil, problem.New(problem.Unavailable, "start understudy-agent run by the means that this machine has", "this machine is not run by systemd, and the agent knows no other service manager on Linux")
	}
	return s, nil
}

// packaged refuses to meddle with what the package manager owns.
func packaged() error {
	for _, unit := range packagedUnits {
		if _, err := os.Stat(unit); err == nil {
			return problem.New(problem.Exists, "use apt or dnf to install, upgrade and remove it", "the agent of this machine came in a package (%s)", unit)
		}
	}
	return nil
}

// idle is a service of which only the manager's verbs are used.
type idle struct{}

func (idle) Start(kardianos.Service) error { return nil }
func (idle) Stop(kardianos.Service) error  { return nil }

// installed reports whether the manager knows the agent.
func installed(s kardianos.Service) bool {
	_, err := s.Status()
	return !errors.Is(err, kardianos.ErrNotInstalled)
}

// vacated is the service manager once it knows no agent any more. doing is for the error.
func vacated(doing string) (kardianos.Service, error) {
	if err := packaged(); err != nil {
		return nil, err
	}
	s, err := manager(idle{})
	if err != nil || !installed(s) {
		return s, err
	}
	if err := errors.Join(s.Stop(), s.Uninstall()); err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	return s, nil
}
