// The panel: the summary, or what became of one entry.
let opened = null, current = null;

function open(entry, { moves = true, focuses = true } = {}) {
  close({ focuses: false });
  opened = entry;
  byId("summary").hidden = true;
  byId("steps").hidden = false;
  const article = byId(`entry-${entry}`);
  article.hidden = false;
  panel.scrollTop = 0;
  const boxes = layersOf.get(entry) ?? [];
  for (const { group } of boxes) group.classList.add("open");
  if (boxes.length) current = boxes.includes(current) ? current : boxes[0];
  if (moves && boxes.length) centre(boxes);
  if (focuses) article.querySelector("h2").focus({ preventScroll: true });
}

function close({ focuses = true } = {}) {
  if (opened === null) return;
  for (const { group } of layersOf.get(opened) ?? []) group.classList.remove("open");
  byId(`entry-${opened}`).hidden = true;
  byId("summary").hidden = false;
  byId("steps").hidden = true;
  opened = null;
  if (focuses) (current?.group ?? graph).focus({ preventScroll: true });
}

function step(by, options) {
  if (!differing.length) return;
  const at = opened ?? current?.entry ?? -1;
  const exact = differing.indexOf(at);
  const before = differing.filter((entry) => entry < at).length;
  const next = exact >= 0 ? exact + by : by > 0 ? before : before - 1;
  open(differing[(next + differing.length) % differing.length], options);
}
