package transport

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/agent/ship"
	"github.com/understudy-dr/understudy/controlplane/relay"
	"github.com/understudy-dr/understudy/controlplane/relay/relaytest"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/frame"
	"github.com/understudy-dr/understudy/pkg/wire"
)

// child is what a relay in a process of its own needs; it goes by the environment.
type child struct {
	Dir, Addr        string
	Cert, Key, Roots []byte
}

const childVariable = "UNDERSTUDY_TEST_RELAY"

func TestMain(m *testing.M) {
	if spec := os.Getenv(childVariable); spec != "" {
		if err := runChild(spec); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// runChild is a relay whose vault takes nothing, until it is killed.
func runChild(spec string) error {
	var c child
	if err := json.Unmarshal([]byte(spec), &c); err != nil {
		return err
	}
	key, err := x509.ParsePKCS8PrivateKey(c.Key)
	if err != nil {
		return err
	}
	ca, err := x509.ParseCertificate(c.Roots)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	vault := &relaytest.Vault{}
	vault.OnCommit(func(context.Context, block.MachineID) error { return errors.New("down") })
	server, err := relay.Open(context.Background(), relay.Config{
		Addr: c.Addr, TLS: wire.RelayTLS(wire.Fixed(tls.Certificate{Certificate: [][]byte{c.Cert}, PrivateKey: key}), roots),
		Vault: vault, SpoolDir: c.Dir, SpoolLimit: 2 << 30, Segment: 40 << 20, Build: "child",
	})
	if err != nil {
		return err
	}
	fmt.Println(server.Addr())
	select {}
}

// spawn starts the child and returns how to kill it, once it listens.
func spawn(t *testing.T, c *child) (kill func()) {
	t.Helper()
	spec, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), childVariable+"="+string(spec))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		_ = cmd.Wait()
		t.Fatalf("the relay did not start: %v: %s", err, stderr.String())
	}
	c.Addr = strings.TrimSpace(line)
	return func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
}

// TestKill9 kills the relay again and again under load. The journal forgets what is
// acknowledged as spooled, like the real one: if the relay lost any of it, the log
// could not go on.
func TestKill9(t *testing.T) {
	s, j := newStage(t, nil), newJournal(t)
	s.stop() // its certificates and its vault serve at the end
	relayCert := s.ca.Relay()
	key, err := x509.MarshalPKCS8PrivateKey(relayCert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	c := &child{Dir: s.conf.SpoolDir, Addr: "127.0.0.1:0", Cert: relayCert.Certificate[0], Key: key, Roots: s.ca.DER()}
	kill := spawn(t, c)
	s.conf.Addr = c.Addr
	j.begin(frame.ReasonInitial)
	client, _ := s.ship(j, func(conf *ship.Config) {
		conf.OnWelcome = func(_ context.Context, w wire.Welcome) (block.Seq, error) {
			return w.Spooled, j.retained(w.Spooled)
		}
		conf.OnLogAck = func(_ context.Context, spooled, _ block.Seq) { j.release(spooled) }
	})
	stop := make(chan struct{})
	wrote := make(chan struct{})
	go func() {
		defer close(wrote)
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Duration(rand.IntN(2000)) * time.Microsecond):
				if j.waiting() < 200 {
					j.write(512 * (1 + rand.IntN(400)))
				}
			}
		}
	}()
	for round := range 12 {
		at := client.Stats().Spooled
		eventually(t, "frames are acknowledged", func() bool { return client.Stats().Spooled > at+block.Seq(30*round) })
		time.Sleep(time.Duration(rand.IntN(20)) * time.Millisecond)
		kill()
		kill = spawn(t, c)
	}
	close(stop)
	<-wrote
	eventually(t, "all is acknowledged", func() bool { return client.Stats().Spooled == j.newest() })
	kill()
	s.start()
	s.arrived(j)
	t.Logf("%d frames, %d sessions", len(s.vault.Log(j.machine)), client.Stats().Sessions)
}
