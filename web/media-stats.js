/** Boils an RTCStatsReport down to what a page shows: {summary, sample}; give `sample` back for rates next time. */
export function summarize(report, before, nowMs) {
  const sample = { nowMs, sent: 0, received: 0 };
  const summary = { rtt_ms: null, sent_bps: null, received_bps: null, packets_lost: 0, inbound: [], outbound: [] };
  for (const entry of report.values()) {
    if (entry.type === "candidate-pair" && entry.nominated && entry.state === "succeeded") {
      summary.rtt_ms = (entry.currentRoundTripTime ?? 0) * 1000;
    } else if (entry.type === "inbound-rtp") {
      sample.received += entry.bytesReceived;
      summary.packets_lost += entry.packetsLost ?? 0;
      if (entry.packetsReceived > 0) summary.inbound.push(inbound(entry));
    } else if (entry.type === "outbound-rtp") {
      sample.sent += entry.bytesSent;
      if (entry.packetsSent > 0) summary.outbound.push(outbound(entry));
    }
  }
  if (before) {
    const seconds = (nowMs - before.nowMs) / 1000;
    summary.sent_bps = Math.max(0, ((sample.sent - before.sent) * 8) / seconds);
    summary.received_bps = Math.max(0, ((sample.received - before.received) * 8) / seconds);
  }
  return { summary, sample };
}

function inbound({ mid, kind, framesPerSecond, frameWidth, frameHeight, framesDecoded, freezeCount, packetsLost, jitter }) {
  return { mid, kind, framesPerSecond, frameWidth, frameHeight, framesDecoded, freezeCount, packetsLost, jitter };
}

function outbound({ mid, kind, rid, framesPerSecond, frameWidth, frameHeight, qualityLimitationReason }) {
  return { mid, kind, rid, framesPerSecond, frameWidth, frameHeight, qualityLimitationReason };
}
