package guest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"image"
	"image/png"
	"io"
	"os"
)

// Screenshot writes what the machine's screen shows to a PNG file.
func (g *Guest) Screenshot(ctx context.Context, file string) (err error) {
	raw := file + ".ppm" // all that qemu's screendump is sure to know
	if err := g.command(ctx, "screendump", map[string]any{"filename": raw}); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(raw)) }()
	in, err := os.Open(raw)
	if err != nil {
		return err
	}
	defer in.Close()
	screen, err := decodePPM(bufio.NewReader(in))
	if err != nil {
		return fmt.Errorf("screen of guest %s: %w", g.Name, err)
	}
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	return errors.Join(png.Encode(out, screen), out.Close())
}

// maxSide is far above any screen's: a file that claims more is not one of qemu's.
const maxSide = 1 << 13

// decodePPM reads a binary PPM with eight bits a colour: "P6 WIDTH HEIGHT 255\n".
func decodePPM(r *bufio.Reader) (image.Image, error) {
	var width, height, most int
	if _, err := fmt.Fscanf(r, "P6\n%d %d\n%d\n", &width, &height, &most); err != nil {
		return nil, fmt.Errorf("not a PPM: %w", err)
	}
	if width <= 0 || height <= 0 || width > maxSide || height > maxSide || most != 255 {
		return nil, fmt.Errorf("a PPM of %d x %d with colours up to %d", width, height, most)
	}
	screen := image.NewNRGBA(image.Rect(0, 0, width, height))
	for i := 0; i < len(screen.Pix); i += 4 {
		if _, err := io.ReadFull(r, screen.Pix[i:i+3]); err != nil {
			return nil, fmt.Errorf("a PPM that ends early: %w", err)
		}
		screen.Pix[i+3] = 0xFF
	}
	return screen, nil
}
