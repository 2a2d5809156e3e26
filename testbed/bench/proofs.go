package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// proofs are tables of what each test found, in its own order and words.
func (p *page) proofs(found map[string]json.RawMessage) error {
	if len(found) > 0 {
		p.printf("\n## Proofs\n")
	}
	for _, what := range slices.Sorted(maps.Keys(found)) {
		lines, err := flat(found[what])
		if err != nil {
			return fmt.Errorf("proof %s: %w", what, err)
		}
		p.proof(what, lines)
	}
	return nil
}

func (p *page) proof(what string, lines []line) {
	var about []string
	table := lines[:0:0]
	for _, l := range lines {
		switch l.key {
		case "what":
		case "date":
			about = append(about, l.value[:min(16, len(l.value))])
		case "kernel":
			about = append(about, "Linux "+l.value)
		default:
			table = append(table, l)
		}
	}
	p.printf("\n**%s**", what)
	if len(about) > 0 {
		p.printf(" (%s)", strings.Join(about, ", "))
	}
	if n := p.noteOn("proof/" + what); n != "" {
		p.printf(": %s", n)
	}
	p.printf("\n\n| | |\n|---|---|\n")
	for _, l := range table {
		p.printf("| %s | %s |\n", strings.ReplaceAll(l.key, "_", " "), l.value)
	}
}

// line is a member of a flat JSON object.
type line struct{ key, value string }

// flat reads a flat object and keeps its order.
func flat(text []byte) (lines []line, err error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if _, err := d.Token(); err != nil {
		return nil, err
	}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return nil, err
		}
		var value any
		if err := d.Decode(&value); err != nil {
			return nil, err
		}
		lines = append(lines, line{fmt.Sprint(key), plain(key == "seed", value)})
	}
	return lines, nil
}

// plain is a value as people write it; a name stays as it is even if it is a number.
func plain(name bool, v any) string {
	n, ok := v.(json.Number)
	if !ok || name {
		return fmt.Sprint(v)
	}
	if _, err := n.Int64(); err == nil {
		return thousands(n.String())
	}
	f, err := n.Float64()
	if err != nil {
		return n.String()
	}
	return number(f)
}
