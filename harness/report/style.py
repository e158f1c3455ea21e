"""How report.html looks, and the two things in it that move."""

STYLE = """
:root { color-scheme: light dark;
  --paper:#fdfcf9; --ink-text:#22231f; --soft:#6d6c64; --line:#e4e1d8; --well:#f5f3ec;
  --c0:#7a7d83; --c1:#1f78b4; --c2:#d2601a; --c3:#168a67; --c4:#a4488f; --c5:#b8860b; --c6:#5a6acf; --c7:#b03a48;
  --good:#1c7a4d; --good-bg:#e2f2e7; --part:#8a6200; --part-bg:#faf0d2; --bad:#a8322a; --bad-bg:#fae4e0;
  --open:#5d6068; --open-bg:#ecebe6; }
@media (prefers-color-scheme: dark) { :root {
  --paper:#17181a; --ink-text:#e4e2da; --soft:#98968d; --line:#323336; --well:#1e2022;
  --c0:#9a9da3; --c1:#5aa9e6; --c2:#f08a4b; --c3:#4cc39a; --c4:#d98ac4; --c5:#e0b64a; --c6:#96a2f5; --c7:#ea7b86;
  --good:#7fd6a6; --good-bg:#1d3529; --part:#e6c468; --part-bg:#39301a; --bad:#f2958b; --bad-bg:#40231f;
  --open:#b2b0a8; --open-bg:#2c2d2f; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin:0; background:var(--paper); color:var(--ink-text);
  font:15px/1.5 system-ui, -apple-system, "Segoe UI", "Helvetica Neue", Arial, sans-serif; }
main { max-width:1180px; margin:0 auto; padding:40px 28px 80px; }
h1, h2 { font-family:"Iowan Old Style", Charter, "Palatino Linotype", Palatino, Georgia, "DejaVu Serif", serif;
  font-weight:600; letter-spacing:-.01em; line-height:1.2; }
h1 { font-size:34px; margin:0; overflow-wrap:anywhere; }
h2 { font-size:23px; margin:0 0 14px; }
h3 { font-size:15px; font-weight:600; margin:26px 0 8px; }
small, .status, .key, figcaption, .notes, details p { color:var(--soft); }
small { font-size:13px; font-weight:400; }
.status { margin:6px 0 0; }
section { margin-top:52px; padding-top:26px; border-top:1px solid var(--line); }
ul { list-style:none; padding:0; margin:0; }
.verdicts { display:flex; flex-wrap:wrap; gap:8px 18px; margin-top:14px; }
.verdicts b { font-variant-numeric:tabular-nums; margin-left:3px; }
.chip { display:inline-block; padding:1px 9px; border-radius:10px; font-size:12.5px; line-height:1.5;
  white-space:nowrap; color:var(--open); background:var(--open-bg); }
.chip.replicated { color:var(--good); background:var(--good-bg); }
.chip.direction-only { color:var(--part); background:var(--part-bg); }
.chip.contradicted { color:var(--bad); background:var(--bad-bg); }
.chip.not-run { background:none; box-shadow:inset 0 0 0 1px var(--line); }
.tabs { display:flex; flex-wrap:wrap; gap:4px; margin-bottom:14px; }
.tabs button { font:inherit; font-size:13.5px; padding:3px 12px; border:1px solid transparent; border-radius:14px;
  background:none; color:var(--soft); cursor:pointer; }
.tabs button:hover { color:var(--ink-text); }
.tabs button[aria-pressed=true] { color:var(--ink-text); background:var(--well); border-color:var(--line); }
.tabs button:focus-visible, input:focus-visible, summary:focus-visible { outline:2px solid var(--c1); }
.scroll { overflow-x:auto; }
table { border-collapse:collapse; font-variant-numeric:tabular-nums; }
.key { font-size:13px; margin:9px 0 0; max-width:86ch; }
abbr { text-decoration:none; }
.cells { min-width:min(100%, 460px); }
.cells thead th { text-align:left; font-weight:600; padding:0 26px 3px 0; }
.cells thead tr + tr > * { font-weight:400; font-size:13px; color:var(--soft); padding-bottom:7px;
  border-bottom:1.5px solid var(--ink-text); }
.cells tbody th { text-align:left; font-weight:500; vertical-align:top; padding:9px 30px 9px 0; white-space:nowrap;
  position:sticky; left:0; background:var(--paper); }
.cells tbody td { vertical-align:top; padding:9px 26px 9px 0; white-space:nowrap; }
.cells tbody tr + tr > * { border-top:1px solid var(--line); }
.cells tbody tr:last-child > * { border-bottom:1.5px solid var(--ink-text); }
.est { font-size:17px; line-height:1.35; }
.est.best { font-weight:650; }
.pm { color:var(--soft); font-size:13.5px; font-weight:400; }
.diff { font-size:13.5px; }
.diff::before { content:"\\0394\\2009"; color:var(--soft); }
.few, .tail, .waiting, .paper { font-size:12.5px; color:var(--soft); }
.never { display:inline-block; min-width:15em; max-width:22em; white-space:normal; }
.paper + div { margin-top:2px; }
.few { color:var(--part); }
.paper { margin-top:3px; }
.notes { font-size:13px; margin-top:14px; max-width:86ch; }
.notes li { padding-left:1.1em; text-indent:-1.1em; margin:3px 0; }
.notes li::before { content:"\\2013\\2002"; }
.methods .cells tbody td { max-width:17em; white-space:normal; }
.eff { display:inline-block; font-size:16px; line-height:1.3; border-radius:8px; white-space:nowrap; }
.eff.hollow, .eff.filled { padding:0 8px; }
.eff.hollow { box-shadow:inset 0 0 0 1.5px var(--soft); }
.eff.filled { color:var(--bad); background:var(--bad-bg); font-weight:600; }
.eff.filled.better { color:var(--good); background:var(--good-bg); }
.methods .tail { white-space:nowrap; }
.forests, .charts, .samples { display:grid; gap:8px 30px; }
.forests { grid-template-columns:repeat(auto-fill, minmax(min(400px, 100%), 1fr)); }
.charts { grid-template-columns:repeat(auto-fill, minmax(min(300px, 100%), 1fr)); }
.samples { grid-template-columns:repeat(auto-fit, minmax(190px, 1fr)); gap:14px;
  max-width:calc(var(--count, 9) * 300px); }
.samples.wide { grid-template-columns:repeat(auto-fill, minmax(min(420px, 100%), 1fr)); max-width:none; }
figure { margin:0; min-width:0; }
figcaption { font-size:13px; padding:4px 0; }
svg { display:block; width:100%; height:auto; overflow:visible; }
svg text { font-size:11px; fill:var(--soft); font-variant-numeric:tabular-nums; }
.forests svg text[text-anchor=end] { font-size:12px; fill:var(--ink-text); }
svg .rule { stroke:var(--line); }
svg .zero { stroke:var(--ink-text); stroke-width:1; }
svg .mark { fill:var(--paper); stroke:var(--ink-text); stroke-width:1.3; }
.legend { display:flex; flex-wrap:wrap; gap:4px 20px; font-size:14px; }
.legend li::before, .samples figcaption::before { content:""; display:inline-block; width:18px; height:3px;
  border-radius:2px; background:var(--ink); margin-right:8px; vertical-align:.28em; }
.samples img { display:block; width:100%; border-radius:3px; }
.samples img[hidden], .panel[hidden] { display:none; }
.slider { float:right; font-size:13px; font-weight:400; color:var(--soft); }
.slider output { color:var(--ink-text); font-variant-numeric:tabular-nums; }
.slider input { vertical-align:middle; width:130px; margin-left:8px; accent-color:var(--c1); }
details { margin-top:16px; }
summary { cursor:pointer; font-size:14px; color:var(--soft); }
details p { font-size:13px; max-width:86ch; }
.plain { font-size:13px; margin-top:8px; }
.plain th { text-align:left; font-weight:600; padding:4px 18px 5px 0; border-bottom:1px solid var(--ink-text);
  white-space:nowrap; }
.plain td { white-space:nowrap; padding:4px 18px 4px 0; border-bottom:1px solid var(--line); vertical-align:top; }
#environment .plain td:last-child, #failures .plain td:nth-child(5) { white-space:normal; overflow-wrap:anywhere; }
@media (max-width:640px) {
  main { padding:24px 16px 56px; }
  h1 { font-size:27px; } h2 { font-size:20px; }
  section { margin-top:38px; padding-top:20px; }
  .samples:not(.wide) { grid-template-columns:1fr 1fr; gap:10px; }
  .slider { float:none; display:block; margin-top:4px; }
  .cells tbody th { padding-right:16px; max-width:110px; white-space:normal; }
  .cells tbody td, .cells thead th { padding-right:18px; }
}
@media print { .panel[hidden] { display:block; } .tabs { display:none; } section { break-inside:avoid; } }
"""

SCRIPT = """
for (const button of document.querySelectorAll('.tabs button')) button.onclick = () => {
  const section = button.closest('section');
  for (const b of section.querySelectorAll('.tabs button')) b.setAttribute('aria-pressed', b === button);
  for (const p of section.querySelectorAll('.panel')) p.hidden = p.id !== button.dataset.panel;
};
for (const slider of document.querySelectorAll('.slider input')) slider.oninput = () => {
  const steps = JSON.parse(slider.dataset.steps), last = steps.length - 1;
  slider.parentElement.querySelector('output').textContent = steps[slider.value];
  for (const figure of slider.closest('.film').querySelectorAll('figure')) {
    const images = figure.querySelectorAll('img');
    const shown = Math.min(images.length - 1, Math.max(0, images.length - 1 - (last - slider.value)));
    images.forEach((image, i) => image.hidden = i !== shown);
  }
};
"""
