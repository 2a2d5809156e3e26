# Makes sure that nothing of an agent's service is left, and fails where something is.
units=/etc/systemd/system
rm -f $units/understudy-agent.service $units/multi-user.target.wants/understudy-agent.service
rm -f /usr/local/bin/understudy-agent /usr/local/bin/understudy-agent.new
systemctl daemon-reload 2>/dev/null
[ ! -e $units/understudy-agent.service ] && [ ! -e /usr/local/bin/understudy-agent ]
