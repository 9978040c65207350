// Differences of two records with their errors and verdicts, by the rules of erk_bench/studies/verdicts.py.
"use strict";

const Statistics = (() => {
  const finite = Number.isFinite;
  const sum = (values) => values.reduce((total, x) => total + x, 0);

  // Root of the summed squares around the mean, times a factor.
  function spread(values, factor) {
    const mean = sum(values) / values.length;
    return Math.sqrt(factor * sum(values.map((x) => (x - mean) ** 2)));
  }

  // Complementary error function: its series near 0, its continued fraction elsewhere.
  function erfc(x) {
    if (x < 2) {
      let term = x;
      let total = x;
      for (let n = 1; Math.abs(term) > 1e-17 * Math.abs(total) && n < 200; n += 1) {
        term *= (-x * x) / n;
        total += term / (2 * n + 1);
      }
      return 1 - (2 / Math.sqrt(Math.PI)) * total;
    }
    let fraction = x;
    for (let n = 100; n > 0; n -= 1) fraction = x + n / 2 / fraction;
    return Math.exp(-x * x) / Math.sqrt(Math.PI) / fraction;
  }

  function pValue([value, error]) {
    if (!finite(value) || !finite(error)) return NaN;
    if (error === 0) return value === 0 ? 1 : 0;
    return erfc(Math.abs(value) / error / Math.SQRT2);
  }

  // Holm's step-down correction; NaN does not count.
  function holm(values) {
    const known = values.map((p, place) => [p, place]).filter(([p]) => !Number.isNaN(p)).sort((a, b) => a[0] - b[0]);
    const corrected = values.map(() => NaN);
    let largest = 0;
    known.forEach(([p, place], rank) => {
      largest = Math.max(largest, Math.min(1, (known.length - rank) * p));
      corrected[place] = largest;
    });
    return corrected;
  }

  function verdict([value, error], lower, p, rules) {
    if (!finite(value) || !finite(error)) return "undefined";
    const resolved = p === null ? Math.abs(value) > rules.resolved * error : p < rules.level;
    if (!resolved || value === 0) return "not resolved";
    return (value < 0) === lower ? "better" : "worse";
  }

  const measured = (record, name) => {
    const [value, error, replicates, halves] = record.metrics[name];
    const v = Site.number(value);
    return { value: v, error: Site.number(error), replicates: Site.unpacked(replicates),
      halves: halves ? Site.unpacked(halves) : [] };
  };

  // Why two records are no pair in a metric; "" where they are.
  function lack(a, b, x, y) {
    const [kind, other] = [a.facts["facts.pairing.kind"], b.facts["facts.pairing.kind"]];
    const [mine, theirs] = [a.facts["facts.pairing.text"], b.facts["facts.pairing.text"]];
    if (kind === other && mine === theirs) {
      const [m, n] = [x.replicates.length, y.replicates.length];
      return m === n ? "" : `${m} and ${n} groups`;
    }
    if (kind !== other) return "seeds and names";
    if (kind === "seeds") {
      const [[first, last], [begin, end]] = [mine, theirs].map((text) => text.split("-").map(Number));
      const both = Math.max(0, Math.min(last, end) - Math.max(first, begin) + 1);
      if (both) return `${both} of the seeds in both`;
    }
    return `other ${kind}`;
  }

  // Of the paired differences, else of independent images. Replicates are deviations from each value: a common
  // shift changes no spread.
  function difference(x, y, unpaired) {
    const value = x.value - y.value;
    if (unpaired) return [value, Math.hypot(x.error, y.error)];
    const halves = x.halves.length > 0 && x.halves.length === y.halves.length;
    const [mine, theirs] = halves ? [x.halves, y.halves] : [x.replicates, y.replicates];
    const gaps = mine.map((each, place) => each - theirs[place]);
    if (!gaps.every(finite)) return [value, NaN];
    return [value, spread(gaps, halves ? 1 / gaps.length : (gaps.length - 1) / gaps.length)];
  }

  // Why two records must not be compared; "" where they may be.
  function refusal(a, b, names, metrics) {
    if (!names.length) return "they share no metric whose better values are known";
    const parts = [["protocol", "facts.protocol"], ["protocol of sampling", "protocol"], ["reference", "reference.sha256", true]];
    if (names.some((name) => metrics[name].features)) parts.push(["file of real features", "reference.features_sha256", true]);
    for (const name of names) parts.push([`detector of ${metrics[name].title}`, `facts.detector.${name}`]);
    for (const [what, key, known] of parts) {
      const [mine, theirs] = [a.facts[key], b.facts[key]];
      if (mine !== theirs && !(known && (mine === undefined || theirs === undefined))) {
        return `the ${what} is ${mine} of the first, ${theirs} of the second`;
      }
    }
    return "";
  }

  // A row for each metric that both have and whose better values are known.
  function compare(a, b, metrics, rules) {
    const names = Object.keys(a.metrics).filter((name) => name in b.metrics && metrics[name].lower !== null);
    const problem = refusal(a, b, names, metrics);
    if (problem) return { problem, rows: [] };
    const [m, n] = [a.facts.num_images, b.facts.num_images];
    const sameSize = Math.abs(m - n) <= rules.sameSize * n;
    const rows = names.map((name) => {
      const [x, y] = [measured(a, name), measured(b, name)];
      const why = lack(a, b, x, y);
      const gap = difference(x, y, why !== "");
      const comparable = sameSize || metrics[name].anySize;
      const equal = comparable && gap[0] === 0 && gap[1] === 0;
      return { name, x, y, lack: why, difference: gap, p: comparable ? pValue(gap) : NaN,
        verdict: comparable ? (equal ? "equal" : "") : "not comparable" };
    });
    const corrected = holm(rows.map((row) => row.p));
    const several = corrected.filter((p) => !Number.isNaN(p)).length > 1;
    rows.forEach((row, place) => {
      row.pHolm = corrected[place];
      row.verdict = row.verdict || verdict(row.difference, metrics[row.name].lower, several ? row.pHolm : null, rules);
    });
    return { problem: "", rows, several };
  }

  return { compare, erfc, holm };
})();
