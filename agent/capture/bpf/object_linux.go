package bpf

// Object is the compiled programs of capture, which LoadCapture reads: to be compared,
// never to be changed. Bindings are made for Linux only, and so is this.
func Object() []byte { return _CaptureBytes }
