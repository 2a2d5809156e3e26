//go:build testbed

package testbed

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/testbed/guest"
	"github.com/understudy-dr/understudy/testbed/lab"
)

// costs is what protection costs a server that works, in one flat object.
type costs struct {
	Date   time.Time `json:"date"`
	Kernel string    `json:"kernel"`
	Rounds int       `json:"rounds"`

	TPSOff   float64 `json:"tps_off"`   // pgbench without an agent
	TPSOn    float64 `json:"tps_on"`    // captured and shipped
	TPSShare float64 `json:"tps_share"` // on ÷ off, median of the rounds'
	TPSNoise float64 `json:"tps_noise"` // off ÷ the round's other off

	DRBDAlone float64 `json:"drbd_alone"` // pgbench on DRBD without its peer
	DRBDSync  float64 `json:"drbd_connected"`
	DRBDShare float64 `json:"drbd_share"` // of off, as TPSShare

	IdleCPU float64 `json:"idle_cpu"` // seconds of processor a second, of the agent
	BusyCPU float64 `json:"busy_cpu"` // at 20 MB/s
	BusyMBs float64 `json:"busy_mb_s"`
	IdleRSS int64   `json:"idle_rss"` // bytes, without what it shares with the kernel
	BusyRSS int64   `json:"busy_rss"`

	BootOff   float64 `json:"boot_off"` // seconds, by the machine's own account
	BootOn    float64 `json:"boot_on"`
	BootDelay float64 `json:"boot_delay"` // median of the rounds' differences
}

const (
	costRounds = 5
	costBench  = 20 // seconds of pgbench
)

// TestHiddenCosts measures what protection costs in a real machine: transactions of
// PostgreSQL with and without it, in turns, beside DRBD, which mirrors to a second
// machine; the agent's memory and processor time; what it adds to a boot. Only a machine
// that does nothing else gives figures worth keeping: make costs.
func TestHiddenCosts(t *testing.T) {
	r := newCostRig(t)
	r.tps()
	r.agentAlone()
	r.boots()
	r.must(keepCosts(r.costs))
	if r.costs.TPSOn == 0 || r.costs.DRBDSync == 0 || r.costs.BusyMBs < 15 {
		t.Errorf("nothing was measured: %+v", r.costs)
	}
}

type costRig struct {
	*guestRig
	peer  *guest.Guest
	costs costs
}

// pgbench has one database on the protected disk and one on DRBD's.
const costMake = `
mkfs.ext4 -q -L data /dev/vdb; mkdir -p /srv/data; echo 'LABEL=data /srv/data ext4 defaults 0 2' >>/etc/fstab; mount /srv/data
` + drbdUp + `
drbdadm primary --force mirror
mkfs.ext4 -q /dev/drbd0; mkdir -p /srv/mirror; mount /dev/drbd0 /srv/mirror
systemctl disable -q --now postgresql || true
for at in data:5501 mirror:5502; do
	dir=/srv/${at%:*}/pg port=${at#*:}
	install -d -o postgres $dir
	as() { setpriv --reuid=postgres --regid=postgres --clear-groups /usr/lib/postgresql/15/bin/"$@" >/dev/null; }
	as initdb --auth=trust -D $dir
	echo "port = $port
unix_socket_directories = '/tmp'
listen_addresses = ''" >>$dir/postgresql.conf
	as pg_ctl -w -D $dir -l $dir/log start
	as pgbench -q -h /tmp -p $port -i -s 4 postgres
done
`

// drbdUp is for both machines. Their names must be what uname says.
const drbdUp = `
ip addr add 10.1.0.$(hostname | tr -d a-z)/24 dev eth1; ip link set eth1 up
cat >/etc/drbd.d/mirror.res <<END
resource mirror {
	protocol A;
	device /dev/drbd0; disk /dev/vdc; meta-disk internal;
	disk { c-plan-ahead 0; resync-rate 100M; } # its own are 250 KB/s: half an hour
	on node1 { address 10.1.0.1:7788; }
	on node2 { address 10.1.0.2:7788; }
}
END
modprobe drbd; drbdadm create-md --force mirror >/dev/null; drbdadm up mirror
`

// drbdSynced is for 8.4, which Debian's kernel has, under its own drbdadm.
const drbdSynced = `for i in $(seq 600); do ! grep -q ds:UpToDate/UpToDate /proc/drbd || exit 0; sleep 0.5; done
cat /proc/drbd >&2; exit 1
`

func newCostRig(t *testing.T) *costRig {
	t.Helper()
	cable, err := lab.FreeAddr(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	two := []guest.Disk{{Name: "data", Size: 512 * mib}, {Name: "mirror", Size: 320 * mib}}
	k := guestKind{
		recipe: guest.Recipe{Packages: []string{"postgresql", "drbd-utils"}},
		disks:  two[:1], nodes: []string{"/dev/vdb"}, others: two[1:], cable: cable, quiet: true, plain: true,
		make: "hostname node1\n" + costMake,
	}
	r := &costRig{guestRig: protectedGuest(t, k), costs: costs{Date: time.Now().UTC().Truncate(time.Second), Rounds: costRounds}}
	r.costs.Kernel = r.run("uname -r")
	image, err := guest.Build(t.Context(), k.recipe)
	r.must(err)
	r.peer, err = guest.Boot(t.Context(), r.Lab, guest.Options{Name: "peer", Image: image, Disks: two, Cable: cable})
	r.must(err)
	_, err = r.peer.Run(t.Context(), "hostname node2\n"+drbdUp)
	r.must(err)
	return r
}

// bench is one run of pgbench against the database at this port, transactions a second.
func (r *costRig) bench(port int) float64 {
	r.t.Helper()
	out := r.run(fmt.Sprintf(`setpriv --reuid=postgres --regid=postgres --clear-groups /usr/lib/postgresql/15/bin/pgbench -h /tmp -p %d -n -c 4 -j 2 -T %d postgres 2>/dev/null |
	awk '/^tps = / { print $3 }'`, port, costBench))
	tps, err := strconv.ParseFloat(out, 64)
	r.must(err)
	return tps
}

// tps runs each way of being protected once a round, and off twice.
func (r *costRig) tps() {
	r.t.Helper()
	var off, on, alone, connected, share, noise, drbd []float64
	for i := range costRounds {
		r.run("systemctl stop agent; understudy-agent detach >/dev/null; drbdadm disconnect mirror || true")
		a, c := r.bench(5501), r.bench(5502)
		r.run("drbdadm connect mirror\n" + drbdSynced)
		d := r.bench(5502)
		r.run("drbdadm disconnect mirror")
		b := r.bench(5501)
		r.run("systemctl start agent")
		r.untilEpochAfter(uint64(i + 1))
		r.untilPoint(r.now())
		p := r.bench(5501)
		r.t.Logf("round %d: off %.0f and %.0f, on %.0f; DRBD alone %.0f, connected %.0f", i, a, b, p, c, d)
		off, on, alone, connected = append(off, a, b), append(on, p), append(alone, c), append(connected, d)
		share, noise, drbd = append(share, p/((a+b)/2)), append(noise, min(a/b, b/a)), append(drbd, d/c)
	}
	r.costs.TPSOff, r.costs.TPSOn, r.costs.TPSShare, r.costs.TPSNoise = median(off), median(on), median(share), median(noise)
	r.costs.DRBDAlone, r.costs.DRBDSync, r.costs.DRBDShare = median(alone), median(connected), median(drbd)
}

// agentAlone is the agent's own use, idle and while 20 MB/s are written.
func (r *costRig) agentAlone() {
	r.t.Helper()
	const seconds = 20
	r.run("sleep 5")
	before := r.used()
	r.run(fmt.Sprintf("sleep %d", seconds))
	idle := r.used()
	r.costs.IdleCPU, r.costs.IdleRSS = (idle.cpu-before.cpu)/(idle.at-before.at), idle.rss
	r.run(fmt.Sprintf(`for i in $(seq %d); do
	s=$(date +%%s%%N)
	dd if=/dev/urandom of=/srv/data/busy bs=1M count=2 seek=$((i %% 50 * 2)) conv=notrunc oflag=direct status=none
	left=$((100000000 - $(date +%%s%%N) + s)); [ $left -le 0 ] || sleep $(printf 0.%%09d $left)
done`, seconds*10))
	busy := r.used()
	r.costs.BusyCPU, r.costs.BusyRSS, r.costs.BusyMBs = (busy.cpu-idle.cpu)/(busy.at-idle.at), busy.rss, seconds*10*2*1.048576/(busy.at-idle.at)
}

// use is what the agent has used.
type use struct {
	at, cpu float64 // seconds
	rss     int64   // bytes, of its own: the ring and the journal's memory are the budget's
}

func (r *costRig) used() (u use) {
	r.t.Helper()
	var ticks float64
	var anonymous, file int64
	out := r.run(`p=$(systemctl show -p MainPID --value agent); cut -d' ' -f1 /proc/uptime
awk '{ print $14 + $15 }' /proc/$p/stat; awk '/^RssAnon/ { print $2 }' /proc/$p/status; awk '/^RssFile/ { print $2 }' /proc/$p/status`)
	if _, err := fmt.Sscan(strings.ReplaceAll(out, "\n", " "), &u.at, &ticks, &anonymous, &file); err != nil {
		r.t.Fatalf("%q: %v", out, err)
	}
	u.cpu, u.rss = ticks/100, (anonymous+file)<<10
	return u
}

// boots compares how long the machine says that it took to start, with and without the
// agent, in turns.
func (r *costRig) boots() {
	r.t.Helper()
	var off, on, delay []float64
	for range costRounds {
		a, b := r.boot("disable"), r.boot("enable")
		r.t.Logf("booted in %.2f s, with the agent in %.2f s", a, b)
		off, on, delay = append(off, a), append(on, b), append(delay, b-a)
	}
	r.costs.BootOff, r.costs.BootOn, r.costs.BootDelay = median(off), median(on), median(delay)
}

func (r *costRig) boot(how string) float64 {
	r.t.Helper()
	r.run("systemctl " + how + " -q agent; sync")
	r.must(r.guest.Reboot(r.t.Context()))
	var took float64
	r.must(lab.Until(r.t.Context(), 2*time.Minute, "end of the boot", func() (bool, error) {
		out, err := r.guest.Run(r.t.Context(), `systemctl is-system-running --wait >/dev/null || true; systemd-analyze time --no-pager | head -n 1`)
		if err != nil {
			return false, err
		}
		_, sum, ok := strings.Cut(strings.TrimSpace(out), "= ")
		if !ok {
			return false, fmt.Errorf("systemd-analyze said %q", out)
		}
		took, err = seconds(sum)
		return err == nil, err
	}))
	return took
}

// seconds reads systemd's "1min 2.345s".
func seconds(s string) (float64, error) {
	d, err := time.ParseDuration(strings.NewReplacer("min", "m", " ", "").Replace(s))
	return d.Seconds(), err
}

func median(x []float64) float64 {
	x = slices.Sorted(slices.Values(x))
	return (x[(len(x)-1)/2] + x[len(x)/2]) / 2
}

const costsPage = `# What protection costs a server that works

Written by ` + "`make costs`" + ` on %s: a Debian guest of two processors, emulated, kernel %s. Its
database lies on the protected disk. Medians of %d rounds in turns; a pgbench of %d s each.

| | without | with | share, or more |
|---|---|---|---|
| pgbench, transactions a second | %.0f | %.0f | **%.2f** (off against off %.2f) |
| the same on DRBD, protocol A, its peer away and there | %.0f | %.0f | %.2f |
| boot, seconds by systemd's account | %.1f | %.1f | **%+.1f s** |

| the agent | idle | while %.0f MB/s are written |
|---|---|---|
| processor, seconds a second | %.3f | %.3f |
| memory of its own, MiB | %d | **%d** |

Beside its own memory there are the ring (64 MiB, the kernel's) and the journal's memory
stage, both as large as the operator says. Everything shares two processors here: the
guest, its emulator, the control plane and DRBD's second guest.
`

func keepCosts(c costs) error {
	raw, err := json.MarshalIndent(c, "", "\t")
	mebi := func(n int64) int64 { return int64(math.Round(float64(n) / mib)) }
	page := fmt.Sprintf(costsPage, c.Date.Format(time.DateOnly), c.Kernel, c.Rounds, costBench,
		c.TPSOff, c.TPSOn, c.TPSShare, c.TPSNoise, c.DRBDAlone, c.DRBDSync, c.DRBDShare, c.BootOff, c.BootOn, c.BootDelay,
		c.BusyMBs, c.IdleCPU, c.BusyCPU, mebi(c.IdleRSS), mebi(c.BusyRSS))
	return errors.Join(err, os.WriteFile("COSTS.json", append(raw, '\n'), 0o644), os.WriteFile("COSTS.md", []byte(page), 0o644))
}
