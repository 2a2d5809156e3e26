package guest

import (
	"maps"
	"strings"
	"testing"
)

// registersOfTwo are of the processor that spins for a lock and of the one that sleeps, as
// qemu 7.2 prints them.
const registersOfTwo = `
CPU#0
RAX=0000000000000001 RBX=ff1100003e531980 RCX=ff1100003e500000 RDX=0000000000000001
RIP=ffffffff81a0eca0 RFL=00000002 [-------] CPL=0 II=0 A20=1 SMM=0 HLT=0
CPU#1
RAX=0000000000000000 RBX=ff1100003e531980 RCX=ff11000006564180 RDX=ffffffff82b32ab0
RIP=ffffffff81a0dfeb RFL=00000246 [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT=1
`

func TestDeafProcessorsAreTrouble(t *testing.T) {
	deaf := map[string]int{"1": 5} // until now
	for range deafLooks {
		if why := trouble("", deaf); why != "" {
			t.Errorf("after %v: %s", deaf, why)
		}
		deaf = deafer(deaf, registersOfTwo)
	}
	if want := map[string]int{"0": deafLooks}; !maps.Equal(deaf, want) {
		t.Errorf("deaf are %v, want %v", deaf, want)
	}
	if why := trouble("", deaf); !strings.Contains(why, "processor 0 ") {
		t.Errorf("why: %q", why)
	}
	if deaf = deafer(deaf, strings.Replace(registersOfTwo, "RFL=00000002", "RFL=00000202", 1)); len(deaf) != 0 {
		t.Errorf("deaf are %v, and one takes interrupts again", deaf)
	}
	if why := trouble("[   88.6] watchdog: BUG: soft lockup - CPU#0 stuck for 45s!", nil); why == "" {
		t.Error("a lockup is no trouble")
	}
}
