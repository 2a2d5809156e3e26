package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-dr/understudy/controlplane/api"
	"github.com/understudy-dr/understudy/controlplane/inventory"
	"github.com/understudy-dr/understudy/pkg/desired"
)

type verifyOptions struct {
	detach, continuous, off bool
	every                   time.Duration
	rate                    byteSize
}

func newVerify(o *operator) *cobra.Command {
	v := &verifyOptions{every: 7 * 24 * time.Hour, rate: 50 << 20}
	cmd := &cobra.Command{
		Use:   "verify MACHINE",
		Short: "Prove that the disks of a machine and their replica are equal",
		Long: `Proves that what the vault holds of a machine's protected disks is what is on them,
while both live: the agent reads the disks, the vault reads its objects anew, and they
compare hashes as of moments that both know. Writes that come meanwhile are accounted
for: what was written during each try is told as not compared, never as equal.

A difference is an event (scrub-difference). The stretch is resynced by itself, and
points that may show it wrongly are marked in understudy point list; bringing one of
them back needs --in-doubt.

With --continuous it begins again and again, in the background; --off ends that.
Interrupting this command does not stop the proof.`,
		Example:           "  understudy verify web1\n  understudy verify web1 --continuous --every 168h --rate 50MiB\n  understudy verify web1 --off",
		Args:              exactArgs(1),
		ValidArgsFunction: o.completeMachines,
	}
	cmd.RunE = o.verb(func(ctx context.Context, c *client, out *printer, args []string) error {
		return runVerify(ctx, cmd, c, out, args[0], v)
	})
	f := cmd.Flags()
	f.BoolVar(&v.detach, "detach", false, "return at once and let the proof go on")
	f.BoolVar(&v.continuous, "continuous", false, "begin again and again")
	f.BoolVar(&v.off, "off", false, "no longer again and again")
	f.DurationVar(&v.every, "every", v.every, "with --continuous: from one beginning to the next")
	f.Var(&v.rate, "rate", "with --continuous: read no more a second; 0: unlimited")
	return cmd
}

func runVerify(ctx context.Context, cmd *cobra.Command, c *client, out *printer, machine string, o *verifyOptions) error {
	path := machinePath(machine) + "/verify"
	switch {
	case o.continuous && o.off:
		return usage("--continuous or --off, not both")
	case o.continuous && o.every < time.Second:
		return usage("--every: want some time, or say --off")
	case o.off:
		w, err := send[desired.Verify](ctx, c, http.MethodPut, path, map[string]int64{"every_seconds": 0})
		if err != nil {
			return err
		}
		return out.say(w, "%s is verified only when asked", machine)
	case o.continuous:
		w, err := send[desired.Verify](ctx, c, http.MethodPut, path, map[string]int64{"every_seconds": int64(o.every.Seconds()), "bytes_per_second": int64(o.rate)})
		if err != nil {
			return err
		}
		return out.say(w, "%s will be verified every %s, %s; see understudy machine show %s", machine, o.every, rateText(w.Rate), machine)
	}
	asked, err := send[api.VerifyAsked](ctx, c, http.MethodPost, path, nil)
	if err != nil {
		return err
	}
	if o.detach {
		return out.say(asked, "proof %d of %s is asked for; see understudy machine show %s", asked.Verify, machine, machine)
	}
	proof, err := awaitProof(ctx, cmd, c, machine, asked.Verify)
	if errors.Is(err, context.Canceled) {
		fmt.Fprintf(cmd.ErrOrStderr(), "understudy: the proof goes on without you; see understudy machine show %s\n", machine)
	}
	if err != nil {
		return err
	}
	if err := out.show(proof, func(t *table) { drawProof(t, proof) }); err != nil {
		return err
	}
	switch proof.Result {
	case desired.ProofEqual:
		return nil
	case desired.ProofDifferent:
		return exitError{fmt.Errorf("disks and replica of %s differ; the stretches are resynced, see understudy event list --machine %s", machine, machine), exitDifferent}
	default:
		return exitError{fmt.Errorf("it could not be proved that disks and replica of %s are equal: %s", machine, proof.Problem), exitNotProved}
	}
}

// awaitProof waits until the request is answered. A control plane that is away for a
// while knows it again when it is back.
func awaitProof(ctx context.Context, cmd *cobra.Command, c *client, machine string, number uint64) (desired.Proof, error) {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	b := newBar(cmd.ErrOrStderr())
	defer b.done()
	for waiting := ""; ; {
		m, err := get[api.Machine](ctx, c, machinePath(machine), nil)
		if err != nil && (ctx.Err() != nil || exitCode(ctx, err) != exitUnreachable) {
			return desired.Proof{}, err
		}
		if p := m.Protection; err == nil && p != nil && p.Verify != nil {
			if p.Verify.Last != nil && p.Verify.Last.Once >= number {
				return *p.Verify.Last, nil
			}
			if g := p.Verify.Progress; g != nil {
				b.set(&inventory.JobProgress{Done: g.Done, Total: g.Total})
			}
			if why := p.Verify.Waiting; why != waiting {
				if waiting = why; why != "" {
					fmt.Fprintf(cmd.ErrOrStderr(), "understudy: waiting: %s\n", clean(why))
				}
			}
		}
		select {
		case <-ctx.Done():
			return desired.Proof{}, ctx.Err()
		case <-tick.C:
		}
	}
}

func drawProof(t *table, p desired.Proof) {
	t.row("result", p.Result)
	if p.Problem != "" {
		t.row("problem", p.Problem)
	}
	t.row("verified", fmt.Sprintf("%s to %s, positions %s to %s", clock(p.Began), clock(p.Ended), p.From, p.To))
	t.row("equal", fmt.Sprintf("%s of %s in use", size(p.Equal), size(p.Total)))
	t.row("different", size(p.Differs))
	t.row("damaged in the vault", size(p.Damaged))
	t.row("not compared", fmt.Sprintf("%s written during each try, %s used but never written since they were free, %s free", size(p.Written), size(p.Absent), size(p.Free)))
}

// verified is a machine's proofs in one line.
func verified(v *desired.VerifyState) string {
	switch {
	case v == nil:
		return "never"
	case v.Running && v.Progress != nil && v.Progress.Total > 0:
		return fmt.Sprintf("now: %s of %s %s", size(v.Progress.Done), size(v.Progress.Total), v.Waiting)
	case v.Last == nil:
		return "asked for " + v.Waiting
	case v.Last.Result == desired.ProofFailed:
		return fmt.Sprintf("%s, not proved: %s", ago(v.Last.Ended), v.Last.Problem)
	}
	p := v.Last
	return fmt.Sprintf("%s at %s: %s; %s equal, %s different, %s not compared", ago(p.Ended), p.To, p.Result, size(p.Equal), size(p.Differs+p.Damaged), size(p.Written+p.Absent))
}

func rateText(n int64) string {
	if n == 0 {
		return "as fast as the disks bear"
	}
	return "at most " + size(n) + "/s"
}
