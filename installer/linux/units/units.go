// Package units holds the systemd units: the packages carry these files, and the agent
// installs its own from the same text where there is no package.
package units

import _ "embed"

// AgentPath is where the agent's unit, as packaged, looks for the program.
const AgentPath = "/usr/bin/understudy-agent"

// Agent is understudy-agent.service.
//
//go:embed understudy-agent.service
var Agent string
