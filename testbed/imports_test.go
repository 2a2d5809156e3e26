// Package testbed holds the end-to-end scenarios, the demo and the rules of the house.
package testbed

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"
)

const module = "github.com/understudy-dr/understudy/"

// rule forbids imports: no package below any of from may import one below any of
// never, unless the importing package is below one of except, or is main itself.
type rule struct {
	from, never, except []string
	main                string
	why                 string
}

func ours(names ...string) []string {
	for i, n := range names {
		names[i] = module + n
	}
	return names
}

var everything = []string{module}

var rules = []rule{
	{from: ours("pkg"), never: ours("agent", "controlplane", "testbed"), why: "pkg is what both sides speak; it knows neither"},
	{from: ours("agent"), never: ours("controlplane"), why: "the sides meet on the wire only"},
	{from: ours("controlplane"), never: ours("agent"), why: "the sides meet on the wire only"},
	{from: ours("agent/capture"), never: ours("agent/consistency", "agent/journal", "agent/resync", "agent/ship"), why: "only pipeline joins the five"},
	{from: ours("agent/consistency"), never: ours("agent/capture", "agent/journal", "agent/resync", "agent/ship"), why: "only pipeline joins the five"},
	{from: ours("agent/journal"), never: ours("agent/capture", "agent/consistency", "agent/resync", "agent/ship"), why: "only pipeline joins the five"},
	{from: ours("agent/resync"), never: ours("agent/capture", "agent/consistency", "agent/journal", "agent/ship"), why: "only pipeline joins the five"},
	{from: ours("agent/mounts"), never: ours("agent", "controlplane"), why: "what is mounted is the kernel's word; it knows no log"},
	{from: ours("agent/mapper"), never: ours("agent", "controlplane"), why: "what a volume lies on is the kernel's word; it knows no log"},
	{from: ours("agent/ship"), never: ours("agent/capture", "agent/consistency", "agent/journal", "agent/resync"), why: "only pipeline joins the five"},
	{from: everything, never: []string{"github.com/cilium/ebpf"}, except: ours("agent/capture"), why: "the kernel is capture's business"},
	{from: everything, never: []string{"github.com/Azure/"}, except: ours("controlplane/objstore/azure", "controlplane/compute/azure"), why: "one vendor's SDK stays in its own rooms"},
	{from: everything, never: []string{"github.com/vmware/govmomi"}, except: ours("controlplane/discovery", "controlplane/compute/vsphere", "testbed"), why: "one vendor's SDK stays in its own rooms"},
	{from: ours("controlplane/vault"), never: ours("controlplane/relay", "controlplane/recovery"), why: "the vault serves both and knows neither"},
	{from: ours("controlplane/failover"), never: ours("controlplane/relay", "controlplane/push", "controlplane/api", "controlplane/web"), why: "the driver knows Plan and Step, never the product"},
	{from: ours("controlplane/push"), never: ours("controlplane/api", "controlplane/failover", "controlplane/ingest", "controlplane/inventory", "controlplane/objstore", "controlplane/pki", "controlplane/recovery", "controlplane/relay", "controlplane/vault"), why: "who pushes is an operator: it knows the control plane by what it asks of it"},
	{from: everything, never: []string{"golang.org/x/crypto/ssh"}, except: ours("controlplane/push", "testbed"), why: "what enters machines is in one room"},
	{from: ours("controlplane/failover"), never: ours("controlplane/compute", "controlplane/recovery", "controlplane/vault"), why: "failover says what it needs; main gives it"},
	{from: ours("controlplane/compute"), never: ours("controlplane/relay", "controlplane/push", "controlplane/api", "controlplane/web", "controlplane/vault", "controlplane/inventory"), why: "a hypervisor is told what to boot, and knows nothing of whose past it is"},
	{from: ours("controlplane/daemon"), never: ours("agent", "controlplane", "pkg", "testbed"), why: "whatever outlives the control plane is started and found without it"},
	{from: ours("installer/linux/units"), never: ours("agent", "controlplane", "pkg", "testbed"), why: "units are text; whoever installs them reads it"},
	{from: ours("controlplane"), never: ours("installer"), why: "the control plane is installed by its package only"},
	{from: everything, never: []string{"github.com/kardianos/service"}, main: module + "agent", why: "who runs the agent is main's business"},
	{from: ours("testbed/guest"), never: ours("agent", "controlplane"), why: "a guest meets the product as its binaries, as a customer's machine does"},
	{from: everything, never: ours("controlplane/api"), main: module + "controlplane", why: "nothing but main imports api"},
}

func TestImports(t *testing.T) {
	packages := list(t)
	if len(packages) < 10 {
		t.Fatalf("only %d packages found: the rules would hold over nothing", len(packages))
	}
	for path, imports := range packages {
		for _, i := range imports {
			for _, r := range rules {
				if r.forbids(path, i) {
					t.Errorf("%s imports %s: %s", path, i, r.why)
				}
			}
		}
	}
}

// TestRulesCanFail: a rule that forbids nothing would pass for ever.
func TestRulesCanFail(t *testing.T) {
	for path, i := range map[string]string{
		module + "pkg/wire":           module + "agent/ship",
		module + "agent/pipeline":     "github.com/cilium/ebpf/link",
		module + "controlplane/relay": module + "controlplane/api",
		module + "controlplane/push":  module + "controlplane/inventory",
		module + "controlplane/api":   "golang.org/x/crypto/ssh",
	} {
		forbidden := false
		for _, r := range rules {
			forbidden = forbidden || r.forbids(path, i)
		}
		if !forbidden {
			t.Errorf("no rule forbids %s to import %s", path, i)
		}
	}
}

func (r rule) forbids(path, imported string) bool {
	if path == imported || path == r.main { // a package's external tests import it
		return false
	}
	return below(path, r.from) && below(imported, r.never) && !below(path, r.except)
}

// below reports whether path is one of roots or lies below one.
func below(path string, roots []string) bool {
	for _, r := range roots {
		if path == r || strings.HasPrefix(path, strings.TrimSuffix(r, "/")+"/") {
			return true
		}
	}
	return false
}

// list maps each package of the module to its imports, tests included, for the three
// systems the agent is built for.
func list(t *testing.T) map[string][]string {
	t.Helper()
	packages := map[string][]string{}
	for _, system := range []string{"linux/amd64", "windows/amd64"} {
		goos, goarch, _ := strings.Cut(system, "/")
		cmd := exec.CommandContext(t.Context(), "go", "list", "-e", "-json=ImportPath,Imports,TestImports,XTestImports", "../...")
		cmd.Env = append(cmd.Environ(), "GOOS="+goos, "GOARCH="+goarch)
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("go list for %s: %v", system, err)
		}
		for dec := json.NewDecoder(bytes.NewReader(out)); ; {
			var p struct {
				ImportPath                         string
				Imports, TestImports, XTestImports []string
			}
			if err := dec.Decode(&p); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
			packages[p.ImportPath] = append(packages[p.ImportPath], append(append(p.Imports, p.TestImports...), p.XTestImports...)...)
		}
	}
	return packages
}
