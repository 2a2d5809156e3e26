package push

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/pkg/desired"
)

// fitFacts are of a machine with nothing in the way.
func fitFacts() *facts {
	return &facts{system: "Linux", machine: "x86_64", kernel: "6.1.0", name: "Debian", uid: "0", systemd: true, packager: "dpkg"}
}

func TestJudgeSystem(t *testing.T) {
	if f := judgeSystem(fitFacts()); unfit(f) {
		t.Errorf("%+v", f)
	}
	for check, change := range map[string]func(*facts){
		"system":          func(f *facts) { f.system = "FreeBSD" },
		"architecture":    func(f *facts) { f.machine = "riscv64" },
		"service manager": func(f *facts) { f.systemd = false },
		"tools":           func(f *facts) { f.missing = []string{"sha256sum"} },
	} {
		f := fitFacts()
		change(f)
		only(t, judgeSystem(f), check)
	}
}

// only fails unless exactly this check says no, with a remedy.
func only(t *testing.T, findings []Finding, check string) {
	t.Helper()
	var no []string
	for _, f := range findings {
		if f.Answer == No {
			no = append(no, f.Check)
			if f.Remedy == "" || f.Detail == "" {
				t.Errorf("%+v does not say what it is and what to do", f)
			}
		}
	}
	if strings.Join(no, ", ") != check {
		t.Errorf("%q say no, want %q", no, check)
	}
}

func TestJudgeClock(t *testing.T) {
	for _, c := range []struct {
		ahead, unsure time.Duration
		want          Answer
		says          string
	}{
		{0, time.Second, Yes, "0s ahead of"},
		{-4 * time.Second, time.Second, Yes, "4s behind"},
		{10 * time.Second, 6 * time.Second, Yes, ""}, // it may be right
		{10 * time.Second, time.Second, Warning, ""},
		{-10 * time.Second, time.Second, Warning, ""},
		{desired.MaxSkew + time.Second, 2 * time.Second, Warning, ""},
		{desired.MaxSkew + 3*time.Second, 2 * time.Second, No, ""},
		{-time.Hour, time.Second, No, "1h0m0s behind"},
	} {
		f := judgeClock(c.ahead, c.unsure)
		if f.Answer != c.want || !strings.Contains(f.Detail, c.says) || (f.Remedy == "") != (c.want == Yes) {
			t.Errorf("%s, give or take %s: %+v, want %s", c.ahead, c.unsure, f, c.want)
		}
	}
}

func TestJudgeInstalled(t *testing.T) {
	known := &Machine{ID: "m"}
	for name, c := range map[string]struct {
		facts func(*facts)
		o     Options
		known *Machine
		want  string
	}{
		"nothing there":                 {func(*facts) {}, Options{Verb: Install}, nil, ""},
		"one of ours":                   {func(f *facts) { f.installed, f.identity.Machine = bare, "m" }, Options{Verb: Upgrade}, known, ""},
		"enrolled elsewhere":            {func(f *facts) { f.identity = identity{"m", "https://other:443"} }, Options{Verb: Install}, nil, "identity"},
		"a package over a bare one":     {func(f *facts) { f.installed = bare }, Options{Verb: Upgrade, Package: "a.deb"}, nil, "installed agent"},
		"a bare one over a package":     {func(f *facts) { f.installed = packaged }, Options{Verb: Upgrade}, nil, "installed agent"},
		"enrol what a package brought":  {func(f *facts) { f.installed = packaged }, Options{Verb: Install}, nil, ""},
		"a deb to dpkg":                 {func(*facts) {}, Options{Verb: Install, Package: "a.deb"}, nil, ""},
		"an rpm to dpkg":                {func(*facts) {}, Options{Verb: Install, Package: "a.rpm"}, nil, "package"},
		"a deb where there is no dpkg":  {func(f *facts) { f.packager = "" }, Options{Verb: Install, Package: "a.deb"}, nil, "package"},
		"an rpm where there is no dpkg": {func(f *facts) { f.packager = "rpm" }, Options{Verb: Install, Package: "a.rpm"}, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			f := fitFacts()
			c.facts(f)
			only(t, judgeInstalled(f, c.o, c.known), c.want)
		})
	}
}

func TestJudgeProbe(t *testing.T) {
	p := probe{Kernel: "6.1", Answer: "no", Checks: []check{{"BTF", "no", "none", "another kernel"}, {"JIT", "unknown", "?", ""}, {"hook", "yes", "", ""}},
		Room: []check{{"room for the program", "yes", "", ""}}, Reach: []check{{"way to a:1", "no", "refused", "start it"}}}
	only(t, judgeProbe(p, nil, true), "way to a:1") // it can be scanned
	if f := judgeProbe(p, nil, true)[0]; f.Answer != Warning || !strings.Contains(f.Remedy, "another kernel; or") || !strings.Contains(f.Remedy, "--scan-every") {
		t.Errorf("a kernel that cannot capture: %+v", f)
	}
	only(t, judgeProbe(p, nil, false), "way to a:1") // without root the agent cannot tell of the kernel
	p = probe{Answer: "yes"}
	only(t, judgeProbe(p, []string{"/dev/sdz"}, true), "disk /dev/sdz")
}

func TestSudoRemedies(t *testing.T) {
	for said, want := range map[string]string{
		"sudo: sorry, you must have a tty to run sudo": "!requiretty",
		"sudo: a password is required":                 "--password-file",
		"sh: 1: sudo: not found":                       "install sudo",
		"ops is not in the sudoers file":               "ops ALL=(ALL) NOPASSWD: ALL",
	} {
		if got := sudoRemedy("ops", said); !strings.Contains(got, want) {
			t.Errorf("after %q: %q, want %q", said, got, want)
		}
	}
}

func TestPlacesOfAStage(t *testing.T) {
	f, ok := judgeStage(&noPlaceError{[]string{"/tmp is full", "/var/tmp is noexec"}})
	if !ok || f.Answer != No || !strings.Contains(f.Detail, "noexec") {
		t.Errorf("%+v", f)
	}
	if _, ok := judgeStage(errors.New("the connection was lost")); ok {
		t.Error("a lost connection is no finding about the machine")
	}
}
