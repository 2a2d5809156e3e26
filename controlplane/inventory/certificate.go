package inventory

import (
	"context"
	"database/sql"
	"time"

	"github.com/understudy-dr/understudy/controlplane/pki"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/problem"
)

// KeepCertificate implements pki.Registry.
func (inv *Inventory) KeepCertificate(ctx context.Context, issued pki.Issued) error {
	return inv.update(ctx, func(tx *sql.Tx) error { return keepCertificate(ctx, tx, issued) })
}

func keepCertificate(ctx context.Context, tx *sql.Tx, c pki.Issued) error {
	_, err := exec(ctx, tx, "INSERT INTO certificates (serial, machine, not_before, not_after) VALUES (?, ?, ?, ?)",
		c.Serial, c.Machine.String(), nanos(c.NotBefore), nanos(c.NotAfter))
	return err
}

// Authorize says whether this certificate still speaks for the machine. That the
// authority signed it is for pki to say: a certificate that is not in the list is
// good as long as its machine is known, so that an inventory restored from an older
// backup, or rebuilt from the vault, does not lock everybody out. A certificate that
// was revoked after that backup lives at most until it expires by itself.
func (inv *Inventory) Authorize(ctx context.Context, machine block.MachineID, serial string) error {
	revoked, err := list(ctx, inv.read, scanRevoked, "SELECT revoked_at, reason FROM certificates WHERE serial = ? AND revoked_at > 0", serial)
	if err != nil {
		return err
	}
	if len(revoked) > 0 {
		return problem.New(problem.CertificateRevoked, "if the machine should come back, make a token for it and enrol it again",
			"the certificate of machine %s was revoked at %s: %s", machine, revoked[0].at.Format(time.RFC3339), revoked[0].reason)
	}
	_, err = machineByID(ctx, inv.read, machine)
	return err
}

// RevokeCertificates shuts the machine's agent out until it enrols again.
func (inv *Inventory) RevokeCertificates(ctx context.Context, machine block.MachineID, reason string) error {
	return inv.update(ctx, func(tx *sql.Tx) error { return inv.revokeCertificates(ctx, tx, machine, reason) })
}

func (inv *Inventory) revokeCertificates(ctx context.Context, tx *sql.Tx, machine block.MachineID, reason string) error {
	_, err := exec(ctx, tx, "UPDATE certificates SET revoked_at = ?, reason = ? WHERE machine = ? AND revoked_at = 0",
		nanos(inv.now()), reason, machine.String())
	return err
}

type revocation struct {
	at     time.Time
	reason string
}

func scanRevoked(rows *sql.Rows) (r revocation, err error) {
	var at int64
	err = rows.Scan(&at, &r.reason)
	r.at = moment(at)
	return r, err
}
