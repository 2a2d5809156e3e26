package vault

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"hash/crc32"
	"testing"

	"github.com/understudy-dr/understudy/controlplane/objstore/mem"
	"github.com/understudy-dr/understudy/controlplane/vault/sealed"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/fuzztest"
)

// FuzzObject puts anything in the place of an object and reads it as each kind. Limit:
// 16 times its bytes and 1 MiB, whatever its header claims.
func FuzzObject(f *testing.F) {
	id, key := block.MachineID{1}, sealed.NewKey()
	for _, kind := range []sealed.Kind{sealed.KindLog, sealed.KindRun, sealed.KindDocument} {
		object := must(sealed.Seal(nil, sealed.Key{9}, "o", kind, 1, sealed.Sections{Index: []byte(`{"a":1}`), Data: [][]byte{[]byte("data")}, Hashes: []byte("hash")}))
		f.Add(bytes.Clone(object))
		binary.LittleEndian.PutUint64(object[32:], sealed.MaxSection)
		f.Add(object)
	}
	v := must(Create(f.Context(), mem.New(), Options{Key: Key{1}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= sealed.HeaderSize {
			binary.LittleEndian.PutUint32(b[60:], crc32.Checksum(b[:60], crc32.MakeTable(crc32.Castagnoli)))
		}
		if err := v.store.Put(t.Context(), "o", b); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = v.store.Delete(t.Context(), "o") }()
		m := v.fetcher(id, key)
		fuzztest.Bounded(t, 16*len(b)+1<<20, func() {
			for _, kind := range []sealed.Kind{sealed.KindLog, sealed.KindBase, sealed.KindRun} {
				if obj, index, err := m.open(t.Context(), "o", kind); err == nil && len(index) > 0 {
					t.Fatalf("%+v opened under a foreign key", obj)
				}
			}
			var doc json.RawMessage
			if err := m.document(t.Context(), "o", &doc); err == nil {
				t.Fatalf("a document opened under a foreign key: %s", doc)
			}
		})
	})
}
