package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// The forms of output.
const (
	outputTable = "table"
	outputJSON  = "json"
)

// operator is what the operator's verbs have in common: a connection, and a form of
// output.
type operator struct {
	connection
	output string
}

func (o *operator) flags(root *cobra.Command) {
	f := root.PersistentFlags()
	o.connection.flags(f)
	f.StringVarP(&o.output, "output", "o", outputTable, "form of the output: table or json")
	_ = root.MarkPersistentFlagDirname("data")
	_ = root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{outputTable, outputJSON}, cobra.ShellCompDirectiveNoFileComp))
}

// prepare fills in what the command line does not say, and refuses what cobra lets
// through.
func (o *operator) prepare() error {
	o.complete()
	if o.output != outputTable && o.output != outputJSON {
		return usageError{fmt.Errorf("--output %q: want %s or %s", o.output, outputTable, outputJSON)}
	}
	return nil
}

// verb is an operator's verb: it connects, and runs.
func (o *operator) verb(run func(ctx context.Context, c *client, out *printer, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		c, err := o.client()
		if err != nil {
			return err
		}
		return run(cmd.Context(), c, o.printer(cmd.OutOrStdout()), args)
	}
}

func (o *operator) printer(w io.Writer) *printer { return &printer{w: w, json: o.output == outputJSON} }

// printer shows results to a human, or to a program.
type printer struct {
	w    io.Writer
	json bool
}

// show prints v as JSON, or what draw makes of it.
func (p *printer) show(v any, draw func(t *table)) error {
	if p.json {
		return p.line(v)
	}
	t := &table{w: tabwriter.NewWriter(p.w, 0, 4, 2, ' ', 0)}
	draw(t)
	return t.w.Flush()
}

// line prints v as one line of JSON.
func (p *printer) line(v any) error {
	e := json.NewEncoder(p.w)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// say prints a sentence to a human; to a program it prints v.
func (p *printer) say(v any, format string, args ...any) error {
	if p.json {
		return p.line(v)
	}
	_, err := fmt.Fprintln(p.w, clean(fmt.Sprintf(format, args...)))
	return err
}

// table is columns for a human.
type table struct{ w *tabwriter.Writer }

// row prints cells; the first row is the heading.
func (t *table) row(cells ...any) {
	texts := make([]string, len(cells))
	for i, c := range cells {
		if texts[i] = clean(fmt.Sprint(c)); texts[i] == "" {
			texts[i] = "-"
		}
	}
	fmt.Fprintln(t.w, strings.Join(texts, "\t"))
}

// clean takes out what could steer the operator's terminal: much of what is shown was
// said by agents, whose machines may have been taken over.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s)
}

func clock(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Local().Format("2006-01-02 15:04:05")
}

func clockMillis(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Local().Format("2006-01-02 15:04:05.000")
}

func ago(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return time.Since(t).Round(time.Second).String() + " ago"
}

func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
