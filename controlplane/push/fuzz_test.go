package push

import (
	"slices"
	"testing"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/fuzztest"
)

// FuzzFacts lets a machine say anything of itself, which may have been taken over. Limit:
// 256 times what it says and 64 KiB. Whatever it says, a machine that it claims to be has
// an id, and a capture that it claims has no "no" in it.
func FuzzFacts(f *testing.F) {
	f.Add("version=1.0\nactive=active\nstate=yes\nidentity={\"machine\":\"01000000000000000000000000000000\",\"server\":\"https://x\"}\n", "1796039618\n", `{"answer":"yes","checks":[{"feature":"BTF","answer":"yes"}],"disks":[{"disk":{"path":"/dev/sda"},"answer":"yes"}]}`, "web1:22")
	f.Add("identity={\"machine\":\"web1\"}", "-1", `{"answer":"no","checks":[{"answer":""}]}`, "[::1")
	f.Add("identity=null\nidentity={}\n==\n", "99999999999999999999", "null", ":")
	f.Fuzz(func(t *testing.T, installed, date, found, host string) {
		fuzztest.Bounded(t, 256*(len(installed)+len(date)+len(found)+len(host))+64<<10, func() {
			var facts facts
			if err := facts.parseInstalled(installed); err == nil && facts.identity.Machine != "" {
				if _, err := block.ParseMachineID(facts.identity.Machine); err != nil {
					t.Fatalf("it is machine %q", facts.identity.Machine)
				}
			}
			_, _ = parseClock(date)
			_, _ = parseHosts([]string{host}, Options{Port: 22})
			p, err := parseProbe(found)
			if err != nil {
				return
			}
			findings := judgeProbe(p, []string{"/dev/sda"}, true)
			for _, c := range p.Checks {
				if c.Answer == "no" && !slices.ContainsFunc(findings, func(f Finding) bool { return f.Answer == Warning }) {
					t.Fatalf("%+v warns of nothing, of %q", findings, found)
				}
			}
		})
	})
}
