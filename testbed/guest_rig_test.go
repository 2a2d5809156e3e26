//go:build testbed

package testbed

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/testbed/guest"
	"github.com/understudy-dr/understudy/testbed/lab"
)

// guestRig is a rig whose machine is a real one: it boots, and can lose its power. Its
// disks are protected, by an agent that its init starts, and a workload writes to them.
type guestRig struct {
	*rig
	kind  guestKind
	guest *guest.Guest
	image *guest.Image
	bin   string
	root  *lab.Disk // where it is protected, too
}

// guestKind is what a guest is made of.
type guestKind struct {
	recipe guest.Recipe
	disks  []guest.Disk // protected
	nodes  []string     // what the guest calls them, /dev/vdb, as a shell reads it
	make   string       // makes file systems and mounts them
	data   []string     // what the workload writes to, NAME=FS=MOUNT
	seed   int          // megabytes that each file system holds from the beginning
	pause  time.Duration
	quiet  bool         // the workload is not started
	spill  int64        // of the agent's journal, bytes; 0 for 64 MiB
	others []guest.Disk // not protected, behind the others
	cable  string       // to another guest
	line   string       // at the end of the kernel's command line
	flags  []string     // of the control plane

	initramfs string // who makes it, where the root is protected; byInitramfsTools if empty
}

// oneDisk has an ext4 on a data disk.
func oneDisk() guestKind {
	return guestKind{
		disks: []guest.Disk{{Name: "data", Size: 256 * mib}}, nodes: []string{"/dev/vdb"},
		make: `mkfs.ext4 -q -L data /dev/vdb; mkdir -p /srv/data
echo 'LABEL=data /srv/data ext4 defaults 0 2' >>/etc/fstab
mount /srv/data`,
		data: []string{"data=ext4=/srv/data"}, seed: 8, pause: 150 * time.Millisecond,
	}
}

// guestUnits are the agent's and the workload's. The workload waits for the agent, as a
// machine's applications do for what runs at its boot: what is written before the
// capture is back costs a resync either way.
const guestUnits = `
cat >/etc/systemd/system/agent.service <<END
[Service]
ExecStart=/usr/local/bin/understudy-agent run --transport tcp %s
Restart=always
RestartSec=1
StandardError=append:/var/log/agent.log
[Install]
WantedBy=multi-user.target
END
cat >/etc/systemd/system/load.service <<END
[Unit]
RequiresMountsFor=%s
After=agent.service
[Service]
ExecStart=/usr/local/bin/load -ledger ` + guest.LinesPort + ` -seed %d -pause %s %s
StandardError=append:/var/log/load.log
[Install]
WantedBy=multi-user.target
END
systemctl daemon-reload
systemctl enable -q %s
sync # or the units are empty after a power cut, which systemd takes for masked
`

func (k guestKind) units() string {
	var mounts []string
	for _, d := range k.data {
		mounts = append(mounts, d[strings.LastIndex(d, "=")+1:])
	}
	budget, atBoot := fmt.Sprintf("--spill-bytes %d --memory-bytes 33554432 --ring-bytes 33554432", cmp.Or(k.spill, 64*mib)), "agent load"
	if k.quiet {
		atBoot = "agent"
	}
	return fmt.Sprintf(guestUnits, budget, strings.Join(mounts, " "), k.seed, k.pause, strings.Join(k.data, " "), atBoot)
}

// protectedGuest is a guest with its disks protected and its workload going on.
func protectedGuest(t *testing.T, k guestKind) *guestRig {
	t.Helper()
	r := bootGuest(t, k)
	r.run(k.make)
	r.run(k.units())
	if !k.quiet {
		r.run("systemctl start load")
	}
	r.enrol("agent")
	for i, d := range k.disks {
		r.disks = append(r.disks, &lab.Disk{Name: d.Name, Device: r.run(stackVerbs + "echo " + k.nodes[i])})
	}
	if len(k.data) == 1 { // the one disk bears the one file system: it can be judged here
		r.disks[0].FS = strings.Split(k.data[0], "=")[1]
	}
	r.protect()
	return r
}

// enrol makes the guest a machine of the control plane, and starts its agent.
func (r *guestRig) enrol(unit string) {
	r.t.Helper()
	token, err := r.site.Token(r.t.Context())
	r.must(err)
	identity := r.run(fmt.Sprintf("understudy-agent enrol --server %s --token %s >&2; systemctl start %s; cat /var/lib/understudy-agent/identity.json", inGuest(r.site.API), token, unit))
	r.machine, err = r.site.NewRemote("guest", []byte(identity))
	r.must(err)
}

// bootGuest is a guest with the programs in it, and a control plane that it can reach.
func bootGuest(t *testing.T, k guestKind) *guestRig {
	t.Helper()
	ctx := t.Context()
	image, err := guest.Build(ctx, k.recipe)
	if err != nil {
		t.Fatal(err)
	}
	r := &guestRig{kind: k, image: image, bin: binaries(t)}
	if _, err := os.Stat(filepath.Join(r.bin, "guest-load")); err != nil {
		t.Fatalf("%v: run make guest-load, or make testbed", err)
	}
	l, err := lab.New(ctx)
	if err != nil {
		t.Fatal(err)
	}
	l.CloseOnSignal()
	r.rig = &rig{Lab: l, t: t, patience: 5}
	t.Cleanup(r.close)
	r.site, err = l.NewSite(ctx, r.bin, k.flags...)
	r.must(err)
	r.site.Advertise(inGuest(r.site.Relay))
	r.must(r.site.Start(ctx))
	r.guest, err = guest.Boot(ctx, l, guest.Options{Name: "guest", Image: image, Disks: slices.Concat(k.disks, k.others), Cable: k.cable, Socket: true, Append: k.line,
		Reach: []string{r.site.API, r.site.Relay}})
	r.must(err)
	t.Cleanup(r.logs)
	r.must(errors.Join(
		r.guest.Put(ctx, filepath.Join(r.bin, "understudy-agent"), "/usr/local/bin/understudy-agent"),
		r.guest.Put(ctx, filepath.Join(r.bin, "guest-load"), "/usr/local/bin/load")))
	return r
}

// inGuest is where a guest finds an address of the host.
func inGuest(addr string) string {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		panic(err) // the lab's own
	}
	return net.JoinHostPort(guest.Host, port)
}

func (r *guestRig) run(script string) string {
	r.t.Helper()
	out, err := r.guest.Run(r.t.Context(), script)
	r.must(err)
	return strings.TrimSpace(out)
}

// logs shows what agent and workload said, if it matters.
func (r *guestRig) logs() {
	if !r.t.Failed() {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.t.Context()), 30*time.Second)
	defer cancel()
	if console, err := r.guest.Console(); err == nil {
		r.t.Logf("on its console:\n%s", console[max(0, len(console)-3000):])
	}
	out, err := r.guest.Run(ctx, "for f in agent load; do tail -n 25 /var/log/$f.log; done; systemctl --no-pager status agent understudy-agent load || true")
	r.t.Logf("in the guest (%v):\n%s", err, out)
}

// judge reads what the guest was promised by now.
func (r *guestRig) judge() {
	r.t.Helper()
	f, err := os.Open(r.guest.Lines())
	r.must(err)
	defer f.Close()
	r.ledger, err = lab.ReadLedger(f)
	r.must(err)
	r.work = lab.Judge(r.ledger, r.kind.seed, r.disks...)
}

// now is the guest's time: its points and promises bear it.
func (r *guestRig) now() time.Time {
	r.t.Helper()
	now, err := time.Parse(time.RFC3339Nano, r.run("date --rfc-3339=ns | tr ' ' T"))
	r.must(err)
	return now
}

// promised counts the acknowledged values, and fails if there are no more than before.
func (r *guestRig) promisedSince(before int) int {
	r.t.Helper()
	var n int
	r.must(lab.Until(r.t.Context(), 4*time.Minute, "new value of the guest's workload", func() (bool, error) {
		r.judge()
		n = r.ledger.Acked()
		return n > before, nil
	}))
	return n
}

// verifyFresh waits for a point from after this call and judges the latest.
func (r *guestRig) verifyFresh() {
	r.t.Helper()
	r.promisedSince(r.promisedSince(0)) // it lives
	r.untilPoint(r.now())
	r.judge()
	got := r.verify("latest")
	if acked, _ := r.ledger.Bounds("data/log", got.Point.Time); acked == 0 {
		r.t.Error("the log has no value: this proves too little")
	}
}
