package inventory

import (
	"context"
	"database/sql"
	"time"

	"github.com/understudy-dr/understudy/controlplane/pki"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/desired"
	"github.com/understudy-dr/understudy/pkg/problem"
)

// Bounds of a token's life.
const (
	DefaultTokenLife = 24 * time.Hour
	MaxTokenLife     = 30 * 24 * time.Hour
)

// Token is an enrolment token as the control plane remembers it: without its secret.
type Token struct {
	ID      string    `json:"id"`
	Machine string    `json:"machine,omitempty" doc:"The machine that may enrol again with it; absent for a new machine."`
	Note    string    `json:"note,omitempty"`
	Status  string    `json:"status" doc:"open, used, expired or revoked."`
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires"`
	Revoked time.Time `json:"revoked,omitzero"`
	Used    time.Time `json:"used,omitzero"`
	UsedBy  string    `json:"used_by,omitempty" doc:"The machine that enrolled with it."`
	usedKey string
}

func (t Token) status(now time.Time) string {
	switch {
	case !t.Used.IsZero():
		return "used"
	case !t.Revoked.IsZero():
		return "revoked"
	case now.After(t.Expires):
		return "expired"
	default:
		return "open"
	}
}

// CreateToken remembers a token with this secret. A zero machine lets any new machine
// enrol; another one lets that machine enrol again and keep its history.
func (inv *Inventory) CreateToken(ctx context.Context, secret string, machine block.MachineID, note string, life time.Duration) (Token, error) {
	if life == 0 {
		life = DefaultTokenLife
	}
	if life < time.Minute || life > MaxTokenLife || len(note) > 256 {
		return Token{}, problem.New(problem.Invalid, "choose a life from 1m to 720h and a note of at most 256 bytes", "a token cannot live for %s", life)
	}
	now := inv.now()
	// The id is a part of the hash: enough to name the token, useless for guessing it.
	t := Token{ID: hash(secret)[:12], Note: note, Created: now.UTC(), Expires: now.Add(life).UTC()}
	if !machine.IsZero() {
		t.Machine = machine.String()
	}
	t.Status = t.status(now)
	return t, inv.update(ctx, func(tx *sql.Tx) error {
		_, err := exec(ctx, tx, "INSERT INTO tokens (id, hash, machine, note, created_at, expires_at) VALUES (?, ?, ?, ?, ?, ?)",
			t.ID, hash(secret), t.Machine, note, nanos(now), nanos(t.Expires))
		return err
	})
}

// Tokens lists all tokens, the newest first.
func (inv *Inventory) Tokens(ctx context.Context) ([]Token, error) {
	return list(ctx, inv.read, inv.scanToken, selectToken+" ORDER BY created_at DESC")
}

// RevokeToken makes an unused token useless. Revoking it again does nothing.
func (inv *Inventory) RevokeToken(ctx context.Context, id string) error {
	return inv.update(ctx, func(tx *sql.Tx) error {
		found, err := list(ctx, tx, inv.scanToken, selectToken+" WHERE id = ?", id)
		if err != nil {
			return err
		}
		if len(found) == 0 {
			return problem.New(problem.NotFound, "see understudy token list", "there is no token %q", id)
		}
		if !found[0].Used.IsZero() {
			return problem.New(problem.Conflict, "to shut the machine out: understudy machine remove "+found[0].UsedBy,
				"token %s was used by machine %s already", id, found[0].UsedBy)
		}
		_, err = exec(ctx, tx, "UPDATE tokens SET revoked_at = ? WHERE id = ? AND revoked_at = 0", nanos(inv.now()), id)
		return err
	})
}

// Redeem implements pki.Registry.
func (inv *Inventory) Redeem(ctx context.Context, secret, keySum string, host desired.Host, issue func(block.MachineID) (pki.Issued, error)) (pki.Issued, error) {
	// A guess must not get as far as the one writer.
	if _, err := inv.redeemable(ctx, inv.read, secret, keySum); err != nil {
		return pki.Issued{}, err
	}
	var issued pki.Issued
	err := inv.update(ctx, func(tx *sql.Tx) error {
		token, err := inv.redeemable(ctx, tx, secret, keySum)
		if err != nil {
			return err
		}
		machine, err := inv.admit(ctx, tx, token, host)
		if err != nil {
			return err
		}
		if err := inv.revokeCertificates(ctx, tx, machine, "the machine enrolled again"); err != nil {
			return err
		}
		if issued, err = issue(machine); err != nil {
			return err
		}
		if err := keepCertificate(ctx, tx, issued); err != nil {
			return err
		}
		if _, err = exec(ctx, tx, "UPDATE tokens SET used_at = ?, used_by = ?, used_key = ? WHERE id = ?", nanos(inv.now()), machine.String(), keySum, token.ID); err != nil {
			return err
		}
		return inv.addEvent(ctx, tx, machine, desired.Event{Type: "enrolled", Severity: desired.Info, Message: "machine " + host.Hostname + " enrolled with token " + token.ID})
	})
	if err != nil {
		return pki.Issued{}, err
	}
	return issued, nil
}

// redeemable finds the token by the hash of its secret: the index compares hashes,
// whose timing says nothing about the secret.
func (inv *Inventory) redeemable(ctx context.Context, q queryer, secret, keySum string) (Token, error) {
	const another = "make another one: understudy token create"
	found, err := list(ctx, q, inv.scanToken, selectToken+" WHERE hash = ?", hash(secret))
	if err != nil {
		return Token{}, err
	}
	if len(found) == 0 {
		return Token{}, problem.New(problem.TokenWrong, another, "this control plane has not issued this token")
	}
	t := found[0]
	switch {
	case !t.Revoked.IsZero():
		return t, problem.New(problem.TokenRevoked, another, "token %s was revoked at %s", t.ID, t.Revoked.Format(time.RFC3339))
	case inv.now().After(t.Expires):
		return t, problem.New(problem.TokenExpired, another, "token %s expired at %s, and now it is %s",
			t.ID, t.Expires.Format(time.RFC3339), inv.now().UTC().Format(time.RFC3339))
	case !t.Used.IsZero() && t.usedKey != keySum:
		return t, problem.New(problem.TokenUsed, another+"; if nobody of yours enrolled with it, remove that machine",
			"token %s was used at %s by machine %s", t.ID, t.Used.Format(time.RFC3339), t.UsedBy)
	}
	return t, nil
}

// admit is the machine that a token stands for; a new one is written down.
func (inv *Inventory) admit(ctx context.Context, tx *sql.Tx, t Token, host desired.Host) (block.MachineID, error) {
	known := t.Machine
	if t.UsedBy != "" {
		known = t.UsedBy
	}
	if known == "" {
		id := block.NewMachineID()
		return id, inv.insertMachine(ctx, tx, id, host.Hostname)
	}
	id, err := block.ParseMachineID(known)
	if err != nil {
		return id, err
	}
	_, err = machineByID(ctx, tx, id)
	return id, err
}

const selectToken = "SELECT id, machine, note, created_at, expires_at, revoked_at, used_at, used_by, used_key FROM tokens"

func (inv *Inventory) scanToken(rows *sql.Rows) (t Token, err error) {
	var created, expires, revoked, used int64
	err = rows.Scan(&t.ID, &t.Machine, &t.Note, &created, &expires, &revoked, &used, &t.UsedBy, &t.usedKey)
	t.Created, t.Expires, t.Revoked, t.Used = moment(created), moment(expires), moment(revoked), moment(used)
	t.Status = t.status(inv.now())
	return t, err
}
