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

const operatingPage = "../controlplane/OPERATING.md"

// TestOperatingPageIsComplete: whatever the product may say to an operator stands on
// the page that tells him what to do, and nothing else does.
func TestOperatingPageIsComplete(t *testing.T) {
	page, err := os.ReadFile(operatingPage)
	if err != nil {
		t.Fatal(err)
	}
	told := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([A-Za-z-]+)` \\| \\S").FindAllStringSubmatch(string(page), -1) {
		if told[m[1]] {
			t.Errorf("%s explains %s twice", operatingPage, m[1])
		}
		told[m[1]] = true
	}
	said := words(t)
	if len(said) < 50 {
		t.Fatalf("only %d words were found in the code: %v", len(said), said)
	}
	for word, where := range said {
		if !told[word] {
			t.Errorf("%s does not explain %s, which %s says", operatingPage, word, where)
		}
	}
	for word := range told {
		if said[word] == "" {
			t.Errorf("%s explains %s, which nothing says", operatingPage, word)
		}
	}
}

// vocabulary are the types whose constants an operator sees, by the package's folder.
var vocabulary = map[string]bool{
	"../controlplane/inventory State": true, "../controlplane/inventory Contact": true,
	"../controlplane/relay EventType": true, "../pkg/frame Reason": true,
}

// words finds them in the code, each with a file that says it: constants of the
// vocabulary, and the types of events that are written where they arise.
func words(t *testing.T) map[string]string {
	t.Helper()
	said := map[string]string{}
	for _, root := range []string{"../agent", "../controlplane", "../pkg"} {
		err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
			if err != nil {
				return err
			}
			ast.Inspect(file, func(n ast.Node) bool {
				for _, word := range wordsOf(n, filepath.Dir(path)) {
					said[word] = path
				}
				return true
			})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return said
}

func wordsOf(n ast.Node, dir string) []string {
	switch n := n.(type) {
	case *ast.ValueSpec: // Protected State = "Protected"
		if kind, ok := n.Type.(*ast.Ident); ok && vocabulary[dir+" "+kind.Name] {
			return literals(n.Values...)
		}
	case *ast.CompositeLit: // desired.Event{Type: "clock"}
		if name(n.Type) != "Event" {
			return nil
		}
		for _, e := range n.Elts {
			if kv, ok := e.(*ast.KeyValueExpr); ok && name(kv.Key) == "Type" {
				return literals(kv.Value)
			}
		}
	case *ast.AssignStmt: // e.Type = "unprotect"
		if s, ok := n.Lhs[0].(*ast.SelectorExpr); ok && s.Sel.Name == "Type" {
			return literals(n.Rhs[0])
		}
	case *ast.CallExpr: // told("failover-test-done", …)
		if name(n.Fun) == "told" {
			return literals(n.Args[0])
		}
	}
	return nil
}

// name is an identifier's, or what is selected.
func name(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		return e.Sel.Name
	}
	return ""
}

func literals(values ...ast.Expr) []string {
	var found []string
	for _, v := range values {
		if l, ok := v.(*ast.BasicLit); ok && l.Kind == token.STRING {
			if s, err := strconv.Unquote(l.Value); err == nil && s != "" {
				found = append(found, s)
			}
		}
	}
	return found
}
