package guest

import (
	"crypto/ed25519"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/crypto/ssh"
)

// An image's keys are made with it: the guest's own, so that whoever enters knows whom
// it speaks to, and the one that enters. They are worth something to nobody else:
// guests listen on loopback, and hold nothing but tests.

const (
	keyFile  = "key"      // of whoever enters
	hostFile = "host.pub" // the guest's
)

func writeKeys(dir, tree string) error {
	host, hostPublic, err := newKey()
	if err != nil {
		return err
	}
	key, public, err := newKey()
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(filepath.Join(tree, "etc/ssh/host_key"), host, 0o600),
		os.MkdirAll(filepath.Join(tree, "root/.ssh"), 0o700),
		os.WriteFile(filepath.Join(tree, "root/.ssh/authorized_keys"), public, 0o600),
		os.WriteFile(filepath.Join(dir, hostFile), hostPublic, 0o644),
		os.WriteFile(filepath.Join(dir, keyFile), key, 0o600))
}

// newKey is an Ed25519 key pair as OpenSSH's files hold it.
func newKey() (private, public []byte, err error) {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		return nil, nil, err
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		return nil, nil, err
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(block), ssh.MarshalAuthorizedKey(signer.PublicKey()), nil
}

// client is what it takes to enter a guest of this image.
func (i *Image) client() (*ssh.ClientConfig, error) {
	private, err := os.ReadFile(filepath.Join(i.Dir, keyFile))
	if err != nil {
		return nil, err
	}
	key, err := ssh.ParsePrivateKey(private)
	if err != nil {
		return nil, fmt.Errorf("key of the guest image: %w", err)
	}
	text, err := os.ReadFile(filepath.Join(i.Dir, hostFile))
	if err != nil {
		return nil, err
	}
	host, _, _, _, err := ssh.ParseAuthorizedKey(text)
	if err != nil {
		return nil, fmt.Errorf("host key of the guest image: %w", err)
	}
	return &ssh.ClientConfig{
		User:            "root",
		Auth:            []ssh.AuthMethod{ssh.PublicKeys(key)},
		HostKeyCallback: ssh.FixedHostKey(host),
	}, nil
}
