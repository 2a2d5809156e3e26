package vault

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/understudy-dr/understudy/controlplane/vault/sealed"
)

// Key is the vault's master key. Whoever holds it can read every machine; whoever
// loses it can read none.
type Key = sealed.Key

// CreateKeyFile draws a master key and writes it to path as 64 hexadecimal digits,
// readable by the owner only. It replaces nothing.
func CreateKeyFile(path string) (Key, error) {
	key := sealed.NewKey()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return Key{}, fmt.Errorf("vault: creating the master key: %w", err)
	}
	_, err = fmt.Fprintln(f, hex.EncodeToString(key[:]))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return Key{}, fmt.Errorf("vault: writing the master key to %s: %w", path, err)
	}
	return key, nil
}

// ReadKeyFile reads a master key: 64 hexadecimal digits, or 32 bytes as they are.
func ReadKeyFile(path string) (Key, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Key{}, fmt.Errorf("vault: the master key is missing: restore %s from where its copy is kept: %w", path, err)
	}
	if err != nil {
		return Key{}, fmt.Errorf("vault: reading the master key: %w", err)
	}
	if info.Size() > 1024 {
		return Key{}, fmt.Errorf("vault: %s is not a master key: %d bytes long, want 64 hexadecimal digits or 32 bytes", path, info.Size())
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return Key{}, fmt.Errorf("vault: reading the master key: %w", err)
	}
	return parseKey(path, b)
}

func parseKey(path string, b []byte) (key Key, err error) {
	if len(b) == len(key) {
		return Key(b), nil
	}
	if n, err := hex.Decode(make([]byte, len(b)), bytes.TrimSpace(b)); err != nil || n != len(key) {
		return Key{}, fmt.Errorf("vault: %s is not a master key: want 64 hexadecimal digits or 32 bytes", path)
	}
	_, err = hex.Decode(key[:], bytes.TrimSpace(b))
	return key, err
}

// wrap encrypts a small secret under k, bound to what it is for.
func wrap(k Key, what string, secret []byte) []byte {
	var nonce [12]byte
	_, _ = rand.Read(nonce[:])
	return k.AEAD().Seal(nonce[:], nonce[:], secret, []byte(what))
}

// unwrap is the inverse of wrap; it fails with another key or another what.
func unwrap(k Key, what string, wrapped []byte) ([]byte, error) {
	if len(wrapped) < 12 {
		return nil, fmt.Errorf("vault: a wrapped secret of %d bytes", len(wrapped))
	}
	secret, err := k.AEAD().Open(nil, wrapped[:12], wrapped[12:], []byte(what))
	if err != nil {
		return nil, fmt.Errorf("vault: a wrapped secret does not open: %w", err)
	}
	return secret, nil
}
