package nbd

import (
	"encoding/binary"
	"testing"
	"testing/synctest"
	"time"
)

func TestExportNameTheOldWay(t *testing.T) {
	for _, noZeroes := range []bool{true, false} {
		c, _ := dial(t, Options{}, Export{Name: "sda", Image: newMemory(8192)})
		flags, tail := uint32(flagFixedNewstyle), 124
		if noZeroes {
			flags, tail = handshakeFlags, 0
		}
		c.hello(flags)
		c.write(uint64(magicOption), uint32(optExportName), uint32(3), "sda")
		if b := c.read(10 + tail); binary.BigEndian.Uint64(b) != 8192 || binary.BigEndian.Uint16(b[8:])&flagDontFragment != 0 {
			t.Fatalf("%x", b)
		}
		c.request(0, cmdRead, 7, 16, 16)
		c.mustSimple(7, 0)
		if got := string(c.read(16)); got != "0123456789abcdef" {
			t.Fatalf("read %q", got)
		}
		c.request(0, cmdDisconnect, 8, 0, 0)
		c.mustEnd()
	}
}

func TestHandshakeRefusals(t *testing.T) {
	c, _ := dial(t, Options{}, Export{Name: "sda", Image: newMemory(8192)}, Export{Name: "sdb", Image: newMemory(8192)})
	c.hello(handshakeFlags)
	for name, o := range map[string]struct {
		opt  option
		data []any
		want repType
	}{
		"STARTTLS":                    {5, nil, repErrUnsupported},
		"unknown":                     {4711, []any{"whatever"}, repErrUnsupported},
		"too long":                    {4711, []any{make([]byte, maxOptionData+1)}, repErrTooBig},
		"a list with data":            {optList, []any{"x"}, repErrInvalid},
		"structured with data":        {optStructuredReply, []any{"x"}, repErrInvalid},
		"no such export":              {optGo, []any{uint32(3), "sdc", uint16(0)}, repErrUnknown},
		"no default among two":        {optInfo, []any{uint32(0), uint16(0)}, repErrUnknown},
		"a name past the end":         {optGo, []any{uint32(400), "sda", uint16(0)}, repErrInvalid},
		"a huge name":                 {optGo, []any{uint32(5000), make([]byte, 5000), uint16(0)}, repErrInvalid},
		"fewer requests than said":    {optGo, []any{uint32(3), "sda", uint16(9)}, repErrInvalid},
		"nothing":                     {optGo, nil, repErrInvalid},
		"meta before structured":      {optSetMeta, []any{uint32(3), "sda", uint32(0)}, repErrInvalid},
		"meta with too many queries":  {optListMeta, []any{uint32(3), "sda", uint32(1 << 30)}, repErrTooBig},
		"meta with a query too short": {optListMeta, []any{uint32(3), "sda", uint32(1), uint32(9), "base:"}, repErrInvalid},
	} {
		if rep, text := c.option(o.opt, o.data...); rep != o.want {
			t.Errorf("%s: reply %#x %q, want %#x", name, rep, text, o.want)
		}
	}
	if rep, _ := c.option(optAbort); rep != repAck {
		t.Errorf("abort: %#x", rep)
	}
	c.mustEnd()
}

func TestHandshakesThatEndTheConnection(t *testing.T) {
	for name, say := range map[string]func(client){
		"unknown flags":     func(c client) { c.hello(4) },
		"no option":         func(c client) { c.hello(3); c.write(uint64(0), uint64(0)) },
		"an endless option": func(c client) { c.hello(3); c.write(uint64(magicOption), uint32(99), uint32(maxSkipped+1)) },
		"unknown export":    func(c client) { c.hello(3); c.write(uint64(magicOption), uint32(optExportName), uint32(1), "x") },
		"a name too long": func(c client) {
			c.hello(3)
			c.write(uint64(magicOption), uint32(optExportName), uint32(maxOptionData+1), make([]byte, maxOptionData+1))
		},
		"options without end": func(c client) {
			c.hello(3)
			for range maxOptions {
				c.option(99)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, _ := dial(t, Options{}, Export{Name: "sda", Image: newMemory(8192)})
			say(c)
			c.mustEnd()
		})
	}
}

func TestSilentClientIsLetGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, stop := dial(t, Options{Patience: time.Minute}, Export{Name: "sda", Image: newMemory(8192)})
		start := time.Now()
		c.hello(3)
		c.mustEnd()
		if waited := time.Since(start); waited != time.Minute {
			t.Errorf("after %v", waited)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}
