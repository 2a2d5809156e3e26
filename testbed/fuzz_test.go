package testbed

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// fuzzTable is FUZZ.md as this test reads it: by package, the fuzz targets and the
// functions that are named in its rows.
type fuzzTable map[string]map[string]bool

var quoted = regexp.MustCompile("`([^`]+)`")

// readFuzzTable takes the rows of all tables: the first cell names the package, all
// other names in backquotes are targets or functions of it.
func readFuzzTable(t *testing.T) fuzzTable {
	t.Helper()
	b, err := os.ReadFile("FUZZ.md")
	if err != nil {
		t.Fatal(err)
	}
	table := fuzzTable{}
	for line := range strings.Lines(string(b)) {
		cells := strings.Split(line, "|")
		if len(cells) < 4 {
			continue
		}
		first := quoted.FindStringSubmatch(cells[1])
		if first == nil {
			continue
		}
		if table[first[1]] == nil {
			table[first[1]] = map[string]bool{}
		}
		for _, name := range quoted.FindAllStringSubmatch(strings.Join(cells[2:], "|"), -1) {
			table[first[1]][name[1]] = true
		}
	}
	return table
}

// decoding are calls that make something of bytes, by package or, for the methods of
// encoding/binary's orders, by name.
var decoding = regexp.MustCompile(`^(json\.(Unmarshal|NewDecoder)|binary\.(Read|Uvarint|Varint)|hex\.Decode(String)?|base64\..*Decode.*|pem\.Decode|x509\.Parse.*|tls\.X509KeyPair|fmt\.Sscan.*|strconv\.(Atoi|Parse(Int|Uint|Float))|lz4\.Uncompress.*|(le|binary|LittleEndian|BigEndian|)\.Uint(16|32|64))$`)

// source is what the walk finds in one package: functions that decode, and targets.
type source struct{ decoders, targets []string }

func readSources(t *testing.T) map[string]*source {
	t.Helper()
	found := map[string]*source{}
	for _, root := range []string{"agent", "controlplane", "pkg"} {
		err := filepath.WalkDir(filepath.Join("..", root), func(p string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(p, ".go") || strings.HasSuffix(p, "_bpfel.go") {
				return err
			}
			dir := strings.TrimPrefix(filepath.ToSlash(filepath.Dir(p)), "../")
			if found[dir] == nil {
				found[dir] = &source{}
			}
			return found[dir].add(p)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return found
}

func (s *source) add(file string) error {
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	for _, d := range f.Decls {
		fn, ok := d.(*ast.FuncDecl)
		switch {
		case !ok || fn.Body == nil:
		case strings.HasSuffix(file, "_test.go"):
			if strings.HasPrefix(fn.Name.Name, "Fuzz") {
				s.targets = append(s.targets, fn.Name.Name)
			}
		case decodes(fn) && !strings.HasSuffix(path.Dir(file), "test"):
			s.decoders = append(s.decoders, fn.Name.Name)
		}
	}
	return nil
}

func decodes(fn *ast.FuncDecl) (found bool) {
	ast.Inspect(fn.Body, func(n ast.Node) bool {
		if call, ok := n.(*ast.CallExpr); ok {
			if sel, ok := call.Fun.(*ast.SelectorExpr); ok {
				name := "." + sel.Sel.Name
				if x, ok := sel.X.(*ast.Ident); ok {
					name = x.Name + name
				}
				found = found || decoding.MatchString(name) && !strings.HasPrefix(name, "rand.")
			}
		}
		return !found
	})
	return found
}

// TestFuzzTableIsComplete: FUZZ.md lists all fuzz targets and no others, and each
// function that makes something of bytes stands beside one, or is said not to need it.
func TestFuzzTableIsComplete(t *testing.T) {
	table, sources := readFuzzTable(t), readSources(t)
	decoders, targets := 0, 0
	for dir, s := range sources {
		for _, name := range slices.Concat(s.decoders, s.targets) {
			if !table[dir][name] {
				t.Errorf("%s: %s is not in testbed/FUZZ.md: list it with the target that feeds it, or say why it needs none", dir, name)
			}
		}
		decoders, targets = decoders+len(s.decoders), targets+len(s.targets)
	}
	for dir, names := range table {
		for name := range names {
			if s := sources[dir]; strings.HasPrefix(name, "Fuzz") && (s == nil || !slices.Contains(s.targets, name)) {
				t.Errorf("testbed/FUZZ.md lists %s of %s, which does not exist", name, dir)
			}
		}
	}
	if decoders < 50 || targets < 40 {
		t.Errorf("only %d decoders and %d targets found: the rule would hold over nothing", decoders, targets)
	}
}
