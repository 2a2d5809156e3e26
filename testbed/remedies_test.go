package testbed

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// A remedy that names a verb or a flag which does not exist is worse than none. What
// there is, is read from the source of both commands; what is named, from every string
// of it and from the pages.

var (
	groupIn   = regexp.MustCompile(`group\("([a-z-]+)`)
	verbIn    = regexp.MustCompile(`(?:Use:\s+|group\(|new[A-Z][A-Za-z]*\(o, )"([a-z-]+)`)
	flagIn    = regexp.MustCompile(`(?:Var|VarP|String|Bool|Int64?|Duration)\([^"\n]*"([a-z][a-z-]+)"`)
	commandAt = regexp.MustCompile(`\bunderstudy(-agent)? ([a-z][a-z-]+)((?: [a-z][a-z-]+)?)`)
	flagAt    = regexp.MustCompile(`--([a-z][a-z-]+)`)
)

// foreign are flags of others' commands that our texts name: of tools, and of the scripts
// that an administrator writes for application-consistent points.
var foreign = map[string]bool{"help": true, "version": true, "sparse": true, "unfreeze": true, "now": true, "pre": true, "post": true,
	"cacert": true, "connect-to": true, "qf": true} // of curl and rpm

// purposes are words after the name that are no verbs: what keys and ids are derived for.
var purposes = map[string]bool{"vhd": true, "object": true, "wrapping": true}

// command is what one of the two binaries understands.
type command struct{ verbs, groups, flags map[string]bool }

func readCommand(t *testing.T, dir string) command {
	t.Helper()
	c := command{map[string]bool{"help": true, "completion": true}, map[string]bool{}, map[string]bool{}}
	files, err := filepath.Glob(filepath.Join("..", dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range verbIn.FindAllStringSubmatch(string(b), -1) {
			c.verbs[m[1]] = true
		}
		for _, m := range groupIn.FindAllStringSubmatch(string(b), -1) {
			c.groups[m[1]] = true
		}
		for _, m := range flagIn.FindAllStringSubmatch(string(b), -1) {
			c.flags[m[1]] = true
		}
	}
	if len(c.verbs) < 5 || len(c.flags) < 5 {
		t.Fatalf("only %d verbs and %d flags found in %s: the rule would hold over nothing", len(c.verbs), len(c.flags), dir)
	}
	return c
}

// texts calls fn with every string of the source but the tests', and with every page.
func texts(t *testing.T, fn func(where, text string)) {
	t.Helper()
	err := filepath.WalkDir("..", func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && strings.HasPrefix(d.Name(), ".") && len(d.Name()) > 2, d.IsDir() && (d.Name() == "testbed" || d.Name() == "testdata"):
			return fs.SkipDir
		case strings.HasSuffix(p, ".md"):
			b, err := os.ReadFile(p)
			for line := range strings.Lines(string(b)) {
				fn(p, line)
			}
			return err
		case strings.HasSuffix(p, ".go") && !strings.HasSuffix(p, "_test.go"):
			f, err := parser.ParseFile(token.NewFileSet(), p, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			ast.Inspect(f, func(n ast.Node) bool {
				if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
					if s, err := strconv.Unquote(lit.Value); err == nil {
						fn(p, s)
					}
				}
				return true
			})
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestRemediesNameWhatThereIs(t *testing.T) {
	plane, agent := readCommand(t, "controlplane"), readCommand(t, "agent")
	named := 0
	texts(t, func(where, text string) {
		for _, m := range commandAt.FindAllStringSubmatch(text, -1) {
			c := plane
			if m[1] != "" {
				c = agent
			}
			second := strings.TrimSpace(m[3])
			if named++; !c.verbs[m[2]] && !purposes[m[2]] || c.groups[m[2]] && second != "" && !c.verbs[second] {
				t.Errorf("%s: %q: there is no such verb", where, m[0])
			}
		}
		for _, m := range flagAt.FindAllStringSubmatch(text, -1) {
			if named++; !plane.flags[m[1]] && !agent.flags[m[1]] && !foreign[m[1]] {
				t.Errorf("%s: there is no flag %s, in %q", where, m[0], text)
			}
		}
	})
	if named < 50 {
		t.Errorf("only %d verbs and flags are named: the rule would hold over nothing", named)
	}
}
