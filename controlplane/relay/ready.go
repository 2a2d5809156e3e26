package relay

import "sync"

// readyQueue holds the machines that have something to commit now, first come first
// served: a machine with a backlog goes to the end after each object.
type readyQueue struct {
	mu     sync.Mutex
	cond   *sync.Cond
	list   []*machine
	closed bool
}

func (q *readyQueue) init() { q.cond = sync.NewCond(&q.mu) }

func (q *readyQueue) push(m *machine) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.list = append(q.list, m)
	q.cond.Signal()
}

// pop waits for a machine; nil means that the queue is closed.
func (q *readyQueue) pop() *machine {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.list) == 0 && !q.closed {
		q.cond.Wait()
	}
	if q.closed {
		return nil
	}
	m := q.list[0]
	if q.list = q.list[1:]; len(q.list) == 0 {
		q.list = nil
	}
	return m
}

func (q *readyQueue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.cond.Broadcast()
}
