package capture

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// Answer is one of three.
type Answer string

// The answers.
const (
	Yes     Answer = "yes"
	No      Answer = "no"
	Unknown Answer = "unknown" // could not tell; Detail says why
)

// Check is the answer to one question about this machine.
type Check struct {
	// Feature is what is needed, "ring buffer".
	Feature string `json:"feature"`
	Answer  Answer `json:"answer"`
	// Detail is what was found, or why nothing could be told.
	Detail string `json:"detail,omitempty"`
	// Remedy is what the operator can do, where the answer is not yes.
	Remedy string `json:"remedy,omitempty"`
}

// DiskReport is the answer for one disk, apart from the machine.
type DiskReport struct {
	Disk   `json:"disk"`
	Answer Answer  `json:"answer"`
	Checks []Check `json:"checks"`
}

// Report says whether this machine's writes can be captured exactly. Its answer is
// no if anything is missing, unknown if anything could not be told, else yes; the
// disks answer for themselves.
type Report struct {
	System string       `json:"system"`
	Kernel string       `json:"kernel"`
	Answer Answer       `json:"answer"`
	Checks []Check      `json:"checks"`
	Disks  []DiskReport `json:"disks"`
	// Reboot says whether an epoch goes on over a clean reboot. It does not count for
	// Answer: where it does not the disks are compared by hash.
	Reboot []Check `json:"reboot,omitempty"`
}

// WriteText renders the report for people.
func (r Report) WriteText(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintf(t, "capture on %s %s:\t%s\n", r.System, r.Kernel, r.Answer)
	WriteChecks(t, r.Checks)
	if r.Answer == No {
		fmt.Fprintf(t, "  instead\tscans\tits disks can be compared by hash while its file systems are frozen: a recovery point each time, as often as the policy says\n")
		fmt.Fprintf(t, "  \t\t-> understudy policy set NAME --scan-every 12h --scan-freeze 5m\n")
	}
	for _, d := range r.Disks {
		fmt.Fprintf(t, "\n%s  %s  %s:\t%s\n", d.Path, orDash(d.Name), bytesText(d.Size), d.Answer)
		WriteChecks(t, d.Checks)
	}
	if len(r.Reboot) > 0 {
		fmt.Fprintf(t, "\na clean reboot without a resync:\t%s\n", sumUp(r.Reboot))
		WriteChecks(t, r.Reboot)
	}
	return t.Flush()
}

// WriteChecks renders checks for people, as rows of a table.
func WriteChecks(t io.Writer, checks []Check) {
	for _, c := range checks {
		fmt.Fprintf(t, "  %s\t%s\t%s\n", c.Feature, c.Answer, strings.ReplaceAll(c.Detail, "\n", " "))
		if c.Remedy != "" && c.Answer != Yes {
			fmt.Fprintf(t, "  \t\t-> %s\n", c.Remedy)
		}
	}
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// bytesText is n in the largest unit that it fills.
func bytesText(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"}
	v, i := float64(n), 0
	for v >= 1024 && i < len(units)-1 {
		v, i = v/1024, i+1
	}
	return strings.TrimSuffix(fmt.Sprintf("%.1f", v), ".0") + " " + units[i]
}

// sumUp is no if anything is missing, unknown if anything could not be told.
func sumUp(checks []Check) Answer {
	sum := Yes
	for _, c := range checks {
		if c.Answer == No {
			return No
		}
		if c.Answer == Unknown {
			sum = Unknown
		}
	}
	return sum
}
