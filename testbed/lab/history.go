package lab

import (
	"context"
	"log/slog"
	"path/filepath"

	"github.com/understudy-dr/understudy/controlplane/objstore"
	"github.com/understudy-dr/understudy/controlplane/objstore/dir"
	"github.com/understudy-dr/understudy/controlplane/vault"
)

// History opens the machine's history in the site's vault from this process, whether
// the control plane runs or not: as another reader of the same store would.
func (m *Machine) History(ctx context.Context) (*vault.Machine, error) {
	store, err := dir.Open(filepath.Join(m.site.Data, "vault"))
	if err != nil {
		return nil, err
	}
	key, err := vault.ReadKeyFile(filepath.Join(m.site.Data, "vault.key"))
	if err != nil {
		return nil, err
	}
	v, err := vault.Open(ctx, objstore.Retry(store, objstore.DefaultRetry), vault.Options{Key: key, Log: slog.New(slog.DiscardHandler), Owner: "lab"})
	if err != nil {
		return nil, err
	}
	return v.Machine(ctx, m.id)
}
