package inventory

import (
	"context"
	"crypto/subtle"
	"database/sql"

	"github.com/understudy-dr/understudy/pkg/problem"
)

// SetOperator lets whoever holds this secret act under this name, and nobody else
// under it. Only the secret's hash is kept; the secret has 160 random bits or more,
// so that a plain hash is enough.
func (inv *Inventory) SetOperator(ctx context.Context, name, secret string) error {
	return inv.update(ctx, func(tx *sql.Tx) error {
		_, err := exec(ctx, tx, "INSERT INTO operators (name, hash, created_at) VALUES (?1, ?2, ?3) ON CONFLICT (name) DO UPDATE SET hash = ?2, created_at = ?3 WHERE hash <> ?2",
			name, hash(secret), nanos(inv.now()))
		return err
	})
}

// Operator is the name that goes with the secret. The error is a problem with code
// unauthenticated.
func (inv *Inventory) Operator(ctx context.Context, secret string) (string, error) {
	type operator struct{ name, hash string }
	all, err := list(ctx, inv.read, func(rows *sql.Rows) (o operator, err error) {
		err = rows.Scan(&o.name, &o.hash)
		return o, err
	}, "SELECT name, hash FROM operators")
	if err != nil {
		return "", err
	}
	name, given := "", []byte(hash(secret))
	for _, o := range all { // all of them, each in constant time
		if subtle.ConstantTimeCompare([]byte(o.hash), given) == 1 {
			name = o.name
		}
	}
	if name == "" {
		return "", problem.New(problem.Unauthenticated, "use the token in DATA/operator.token of the control plane: --token-file FILE or UNDERSTUDY_TOKEN_FILE", "the operator's token is not one of this control plane")
	}
	return name, nil
}
