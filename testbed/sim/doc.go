// Package sim lives through random lives of one protected machine, its relays and its
// vault, in fake time and with everything going wrong that can, and judges every
// recovery point on the way. README.md says what of it is real, what is not, and how to
// repeat a failure.
package sim
