//go:build !linux

package main

// prioritise is for systems with a ring that overflows.
func prioritise() {}
