package qemu

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"image"
	"image/png"
	"io"
	"os"
	"path/filepath"
)

// maxScreen bounds what a guest may make its screen, in bytes of pixels.
const maxScreen = 64 << 20

// Screenshot implements failover.Compute.
func (c *Compute) Screenshot(ctx context.Context, dir string) ([]byte, error) {
	f, err := os.CreateTemp(dir, "screen-*") // two may look at once
	if err != nil {
		return nil, fmt.Errorf("a place for the screenshot: %w", err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if err := command(ctx, filepath.Join(dir, controlName), "screendump", map[string]any{"filename": f.Name()}, nil); err != nil {
		return nil, err
	}
	shot, err := os.Open(f.Name()) // qemu may have replaced the file
	if err != nil {
		return nil, err
	}
	defer shot.Close()
	screen, err := readPPM(bufio.NewReader(shot))
	if err != nil {
		return nil, fmt.Errorf("the screenshot: %w", err)
	}
	var out bytes.Buffer
	err = png.Encode(&out, screen)
	return out.Bytes(), err
}

// readPPM reads what qemu's screendump writes: a binary PPM of 8 bits a colour.
func readPPM(r io.Reader) (image.Image, error) {
	var width, height, colours int
	if _, err := fmt.Fscanf(r, "P6\n%d %d\n%d", &width, &height, &colours); err != nil {
		return nil, fmt.Errorf("not a PPM: %w", err)
	}
	if width <= 0 || height <= 0 || colours != 255 || width > maxScreen/3/height {
		return nil, fmt.Errorf("a PPM of %d by %d pixels and %d colours", width, height, colours)
	}
	pixels := make([]byte, 1+width*height*3)
	if _, err := io.ReadFull(r, pixels); err != nil {
		return nil, errors.Join(errors.New("a PPM that ends early"), err)
	}
	pixels = pixels[1:] // white space before them
	screen := image.NewRGBA(image.Rect(0, 0, width, height))
	for i := range width * height {
		copy(screen.Pix[4*i:], pixels[3*i:3*i+3])
		screen.Pix[4*i+3] = 0xFF
	}
	return screen, nil
}
