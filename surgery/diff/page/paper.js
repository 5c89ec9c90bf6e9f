// Paper: the parts of the drawing around what differs, each in a picture that fits on a page.
function bands() {
  const found = [];
  for (const layer of layers.filter(({ group }) => !group.classList.contains("same")).sort((a, b) => a.y - b.y)) {
    const top = Math.max(layer.y - CONTEXT, 0), bottom = Math.min(layer.y + layer.height + CONTEXT, whole.height);
    const last = found.at(-1);
    if (last && top <= last.bottom && bottom - last.top <= PRINTED_HEIGHT) last.bottom = Math.max(last.bottom, bottom);
    else found.push({ top: last ? Math.max(top, last.bottom) : top, bottom });
  }
  return found.filter(({ top, bottom }) => bottom > top);
}

function picture({ top, bottom }, parts) {
  const drawn = graph.cloneNode(false), figure = document.createElement("figure");
  for (const name of ["id", "tabindex", "width", "height"]) drawn.removeAttribute(name);
  drawn.setAttribute("viewBox", `0 ${top} ${whole.width} ${bottom - top}`);
  for (const part of parts.filter((part) => part.top < bottom && part.bottom > top)) {
    drawn.append(part.element.cloneNode(true));
    drawn.lastChild.removeAttribute("id");
  }
  figure.append(drawn);
  return figure;
}

window.addEventListener("beforeprint", () => {
  const prints = document.createElement("section");
  prints.id = "prints";
  const parts = [...world.children].map((element) => {
    const { y, height } = element.getBBox(), moved = element.transform.baseVal;
    const top = y + (moved.numberOfItems ? moved.getItem(0).matrix.f : 0);
    return { element, top, bottom: top + height };
  });
  prints.append(...bands().map((band) => picture(band, parts)));
  panel.append(prints);
});
window.addEventListener("afterprint", () => byId("prints")?.remove());
