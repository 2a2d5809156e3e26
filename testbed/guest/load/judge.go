package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/understudy-dr/understudy/testbed/lab"
)

// judged is what judge prints, one JSON object.
type judged struct {
	Checked int      `json:"checked"` // acknowledged values that were looked for, and found
	Clean   int      `json:"clean"`   // file systems without damage
	Wrong   []string `json:"wrong"`   // disks and applications with an error
	Problem string   `json:"problem"` // the errors
}

// judge looks at recovered disks, NAME=FS=DEVICE, that claim to be of a moment, in a
// machine that can put together what they are made of. The ledger is a file of the lines
// that the work has told.
func judge(ctx context.Context, ledger string, seed int, at string, args []string, out io.Writer) (err error) {
	moment, err := time.Parse(time.RFC3339Nano, at)
	if err != nil {
		return err
	}
	f, err := os.Open(ledger)
	if err != nil {
		return err
	}
	defer f.Close()
	g, err := lab.ReadLedger(f)
	if err != nil {
		return err
	}
	var disks []*lab.Disk
	devices := map[string]string{}
	for _, a := range args {
		parts := strings.Split(a, "=")
		if len(parts) != 3 {
			return fmt.Errorf("%q: want NAME=FS=DEVICE", a)
		}
		disks = append(disks, &lab.Disk{Name: parts[0], FS: parts[1]})
		devices[parts[0]] = parts[2]
	}
	l, err := lab.New(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	v, wrong := lab.Judge(g, seed, disks...).Verify(ctx, l, devices, moment)
	j := judged{Checked: v.Checked, Clean: v.Clean, Wrong: v.Wrong}
	if wrong != nil {
		j.Problem = wrong.Error()
	}
	return json.NewEncoder(out).Encode(j)
}
