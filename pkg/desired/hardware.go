package desired

// Limits of what a machine may say of its hardware.
const (
	maxCards = 64
	maxWord  = 64 // bytes of a name, an address or a driver
)

// Hardware is what a machine runs on, as far as a replica of it should have the same.
// Zero members are not known.
type Hardware struct {
	Firmware string `json:"firmware,omitempty" doc:"bios or uefi."`
	Memory   int64  `json:"memory,omitempty" doc:"Bytes."`
	CPUs     int    `json:"cpus,omitempty"`
	Cards    []Card `json:"cards,omitempty" doc:"The network cards that are hardware."`
}

// Card is a network card.
type Card struct {
	Name   string `json:"name"`
	MAC    string `json:"mac"`
	Driver string `json:"driver,omitempty" doc:"By the system's name for it, for example virtio_net."`
}

func (h *Hardware) check() error {
	if h == nil {
		return nil
	}
	if len(h.Cards) > maxCards || h.Memory < 0 || h.CPUs < 0 {
		return invalid("%d network cards, %d processors, %d bytes of memory: at most %d cards, and nothing below zero", len(h.Cards), h.CPUs, h.Memory, maxCards)
	}
	for _, c := range h.Cards {
		if err := checkTexts(map[string]string{"name of a card": c.Name, "address of a card": c.MAC, "driver of a card": c.Driver}, maxWord); err != nil {
			return err
		}
	}
	return checkTexts(map[string]string{"firmware": h.Firmware}, maxWord)
}
