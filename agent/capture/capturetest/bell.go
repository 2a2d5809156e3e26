package capturetest

// Bell tells whoever waits before an empty ring that it is one no more. Its zero value is
// ready; whose ring it is guards it.
type Bell struct{ woken chan struct{} }

// Wait is the channel that the next Ring closes. Only that of the last call counts.
func (b *Bell) Wait() <-chan struct{} {
	b.woken = make(chan struct{})
	return b.woken
}

// Ring wakes who waits, if somebody does.
func (b *Bell) Ring() {
	if b.woken != nil {
		close(b.woken)
		b.woken = nil
	}
}
