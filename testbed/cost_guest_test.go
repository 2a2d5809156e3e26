//go:build testbed

package testbed

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/testbed/guest"
	"github.com/understudy-dr/understudy/testbed/lab"
)

// costRig is a guest with the agent as its package installs it, and DRBD's peer.
type costRig struct {
	*guestRig
	peer   *guest.Guest
	initrd string // with the agent
	costs  *costs
}

// costSetup are the options that the agent's units and its initramfs take: but for where
// its log is, its own.
const costSetup = `
echo 'UNDERSTUDY_AGENT_OPTS="--transport tcp"' >/etc/default/understudy-agent
mkdir -p /etc/systemd/system/understudy-agent.service.d
printf '[Service]\nStandardError=append:/var/log/agent.log\n' >/etc/systemd/system/understudy-agent.service.d/log.conf
systemctl daemon-reload
systemctl enable -q understudy-agent understudy-agent-early
`

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
	as() { setpriv --reuid=postgres --regid=postgres --clear-groups ` + postgres + `"$@" >/dev/null; }
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

func newCostRig(t *testing.T, c *costs) *costRig {
	t.Helper()
	cable, err := lab.FreeAddr(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	two := []guest.Disk{{Name: "data", Size: 512 * mib}, {Name: "mirror", Size: 320 * mib}}
	recipe := guest.Recipe{Packages: []string{"postgresql", "drbd-utils"}}
	r := &costRig{costs: c, guestRig: bootGuest(t, guestKind{recipe: recipe, disks: two[:1], others: two[1:], cable: cable})}
	c.GuestKernel = r.run("uname -r")
	r.putPackage()
	r.run(costSetup)
	r.initrd, err = r.initramfs(costSetup)
	r.must(err)
	r.run("hostname node1\n" + costMake)
	r.enrol("understudy-agent")
	r.disks = []*lab.Disk{{Name: "data", FS: lab.Ext4, Device: "/dev/vdb"}}
	r.protect()
	image, err := guest.Build(t.Context(), recipe)
	r.must(err)
	r.peer, err = guest.Boot(t.Context(), r.Lab, guest.Options{Name: "peer", Image: image, Disks: two, Cable: cable})
	r.must(err)
	_, err = r.peer.Run(t.Context(), "hostname node2\n"+drbdUp)
	r.must(err)
	return r
}

// bench is one run of pgbench against the database at this port.
func (r *costRig) bench(port int) pgRun {
	r.t.Helper()
	run, err := pgBench(r.run, port)
	r.must(err)
	return run
}

// tps runs each way of being protected once a round. DRBD's second machine is there only
// while it is measured.
func (r *costRig) tps() {
	r.t.Helper()
	var rounds pgRounds
	var alone, connected, drbd []float64
	off := func() pgRun {
		r.run("systemctl stop understudy-agent; understudy-agent detach >/dev/null; drbdadm disconnect mirror || true")
		return r.bench(5501)
	}
	for i := range costRounds {
		rounds.off = append(rounds.off, off())
		c := r.bench(5502)
		r.run("drbdadm connect mirror\n" + drbdSynced)
		d := r.bench(5502)
		r.run("drbdadm disconnect mirror; systemctl start understudy-agent")
		r.untilEpochAfter(uint64(i + 1))
		r.untilPoint(r.now())
		rounds.on = append(rounds.on, r.bench(5501))
		r.t.Logf("round %d: without %v, with %v; DRBD alone %v, connected %v", i, rounds.off[i], rounds.on[i], c, d)
		alone, connected, drbd = append(alone, c.TPS), append(connected, d.TPS), append(drbd, d.TPS/c.TPS)
	}
	rounds.off = append(rounds.off, off())
	r.costs.Guest = rounds.cost()
	r.costs.DRBDAlone, r.costs.DRBDSync, r.costs.DRBDShare = median(alone), median(connected), median(drbd)
	r.must(r.peer.Shutdown(r.t.Context()))
	r.run("drbdadm down mirror || true; systemctl start understudy-agent")
	r.untilEpochAfter(costRounds + 1)
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
	out := r.run(`p=$(systemctl show -p MainPID --value understudy-agent); cut -d' ' -f1 /proc/uptime
awk '{ print $14 + $15 }' /proc/$p/stat; awk '/^RssAnon/ { print $2 }' /proc/$p/status; awk '/^RssFile/ { print $2 }' /proc/$p/status`)
	if _, err := fmt.Sscan(strings.ReplaceAll(out, "\n", " "), &u.at, &ticks, &anonymous, &file); err != nil {
		r.t.Fatalf("%q: %v", out, err)
	}
	u.cpu, u.rss = ticks/100, (anonymous+file)<<10
	return u
}

// boots compares how long the machine says that it took to start, with and without the
// agent, in turns. A start without it means a resync in the next one with it, which is not
// what a boot is like: the one after that is measured.
func (r *costRig) boots() {
	r.t.Helper()
	var off, on, delay []float64
	for range costRounds {
		r.boot("enable", r.initrd)
		r.untilPoint(r.now())
		b, a := r.boot("enable", r.initrd), r.boot("disable", r.image.Initrd())
		r.t.Logf("booted in %.2f s, with the agent in %.2f s", a, b)
		off, on, delay = append(off, a), append(on, b), append(delay, b-a)
	}
	r.costs.BootOff, r.costs.BootOn, r.costs.BootDelay = median(off), median(on), median(delay)
}

func (r *costRig) boot(how, initrd string) float64 {
	r.t.Helper()
	r.run("systemctl " + how + " -q understudy-agent understudy-agent-early; sync")
	r.must(r.guest.SetInitrd(initrd))
	r.must(r.guest.Shutdown(r.t.Context()))
	r.must(r.guest.Start(r.t.Context()))
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
