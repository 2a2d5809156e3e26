package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-dr/understudy/controlplane/api"
	"github.com/understudy-dr/understudy/controlplane/inventory"
)

func newMachine(o *operator) *cobra.Command {
	return group("machine", "Machines and how they are", "", newMachineList(o), newMachineShow(o), newMachineRemove(o))
}

func machinePath(name string) string { return "/v1/machines/" + url.PathEscape(name) }

func newMachineList(o *operator) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List machines",
		Args:  cobra.NoArgs,
		RunE: o.verb(func(ctx context.Context, c *client, out *printer, _ []string) error {
			machines, err := list[api.Machine](ctx, c, "/v1/machines", nil)
			if err != nil {
				return err
			}
			return out.show(machines, func(t *table) {
				t.row("HOSTNAME", "ID", "STATE", "CONTACT", "RPO", "DISKS", "POLICY", "REPORTED")
				for _, m := range machines {
					t.row(m.Hostname, m.ID, m.Status.State, m.Status.Contact, rpo(m.Status), len(m.Disks), m.Policy, ago(m.Reported))
				}
			})
		}),
	}
}

// rpo is the age of the newest recoverable point.
func rpo(s inventory.Status) string {
	if s.RPO == nil {
		return "none"
	}
	return seconds(*s.RPO)
}

func newMachineShow(o *operator) *cobra.Command {
	return &cobra.Command{
		Use:               "show MACHINE",
		Short:             "Show one machine",
		Args:              exactArgs(1),
		ValidArgsFunction: o.completeMachines,
		RunE: o.verb(func(ctx context.Context, c *client, out *printer, args []string) error {
			m, err := get[api.Machine](ctx, c, machinePath(args[0]), nil)
			if err != nil {
				return err
			}
			return out.show(m, func(t *table) { drawMachine(t, m) })
		}),
	}
}

func drawMachine(t *table, m api.Machine) {
	t.row("hostname", m.Hostname)
	t.row("id", m.ID)
	t.row("system", fmt.Sprintf("%s, kernel %s, agent %s", m.Host.OS, m.Host.Kernel, m.Host.AgentVersion))
	t.row("state", fmt.Sprintf("%s since %s", m.Status.State, clock(m.StateSince)))
	t.row("", m.Status.Message)
	t.row("contact", fmt.Sprintf("%s, reported %s", m.Status.Contact, ago(m.Reported)))
	t.row("rpo", rpo(m.Status))
	t.row("policy", m.Policy)
	if p := m.Status.Problem; p != nil {
		t.row("problem", p.Detail)
		t.row("what to do", p.Remedy)
	}
	if p := m.Status.Progress; p != nil {
		t.row("copy", fmt.Sprintf("%s of %s (%s), %s left", size(p.Done), size(p.Total), p.Method, seconds(p.ETASeconds)))
	}
	if p := m.Protection; p != nil {
		t.row("epoch", fmt.Sprintf("%d (%s) since %s", p.Epoch, p.Reason, clock(p.Since)))
		t.row("churn", size(p.Churn)+"/s")
		t.row("waiting", fmt.Sprintf("ring %s, memory %s, spill %s; in doubt if lost now %s", size(p.Ring.Used), size(p.Memory.Used), size(p.Spill.Used), size(p.Dirty)))
	}
	if p := m.Protection; p != nil {
		t.row("verified", verified(p.Verify))
	}
	if m.Verify.Every > 0 {
		t.row("verify", fmt.Sprintf("every %s, %s", time.Duration(m.Verify.Every)*time.Second, rateText(m.Verify.Rate)))
	}
	if r := m.Replication; r != nil {
		t.row("newest point", clockMillis(r.PointTime))
		t.row("spooled to", fmt.Sprintf("%s at %s", r.Spooled, clockMillis(r.SpooledClose)))
		t.row("in vault to", fmt.Sprintf("%s at %s", r.Committed, clockMillis(r.CommittedClose)))
	}
	for _, d := range m.Disks {
		t.row("disk", fmt.Sprintf("%s  %s  %s", d.Path, d.Name, size(d.Size)))
	}
	for _, k := range m.Probe.Checks {
		if k.Answer != "yes" {
			t.row("probe", fmt.Sprintf("%s: %s (%s) %s", k.Name, k.Answer, k.Detail, k.Remedy))
		}
	}
}

func newMachineRemove(o *operator) *cobra.Command {
	return &cobra.Command{
		Use:               "remove MACHINE",
		Short:             "Forget a machine and shut its agent out; the vault keeps its history",
		Args:              exactArgs(1),
		ValidArgsFunction: o.completeMachines,
		RunE: o.verb(func(ctx context.Context, c *client, out *printer, args []string) error {
			if _, err := send[struct{}](ctx, c, http.MethodDelete, machinePath(args[0]), nil); err != nil {
				return err
			}
			return out.say(map[string]string{"removed": args[0]}, "machine %s is removed; the vault keeps its history", args[0])
		}),
	}
}
