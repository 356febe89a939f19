"use strict";
// Values under the pointer: the nearest point of each line, or the thumbnail of a point on the map.
const tip = document.getElementById("tip");

function show(event, parts) {
  tip.replaceChildren(...parts);
  tip.style.display = "block";
  const x = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8);
  const y = event.clientY + 16 + tip.offsetHeight > innerHeight ? event.clientY - tip.offsetHeight - 12 : event.clientY + 16;
  tip.style.left = Math.max(4, x) + "px";
  tip.style.top = y + "px";
}

function line(text, color) {
  const div = document.createElement("div");
  div.textContent = text;
  if (color) div.style.color = color;
  return div;
}

function at(svg, event) {
  return new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
}

function shape(name, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const key in attributes) made.setAttribute(key, attributes[key]);
  return made;
}

for (const svg of document.querySelectorAll("svg.lines")) {
  const series = JSON.parse(svg.dataset.series);
  const cursor = svg.querySelector(".cursor");
  svg.addEventListener("pointermove", (event) => {
    const x = at(svg, event).x;
    const hits = [];
    for (const one of series) {
      let best = null;
      for (const p of one.p) if (!best || Math.abs(p[2] - x) < Math.abs(best[2] - x)) best = p;
      if (best) hits.push([one, best]);
    }
    if (!hits.length) return;
    const first = hits.reduce((a, b) => (Math.abs(b[1][2] - x) < Math.abs(a[1][2] - x) ? b : a))[1];
    const same = hits.filter((hit) => Math.abs(hit[1][2] - first[2]) < 6);
    cursor.replaceChildren(
      shape("line", { x1: first[2], x2: first[2], y1: 10, y2: 192 }),
      ...same.map(([one, p]) => shape("circle", { cx: p[2], cy: p[3], r: 3.5, class: "dot c" + one.c })),
    );
    const unit = svg.dataset.unit ? " " + svg.dataset.unit : "";
    const lines = same.map(([one, p]) => line(`${series.length > 1 ? one.n + ": " : ""}${p[1]}${unit}`, `var(--c${one.c})`));
    show(event, [line(`${svg.dataset.x} ${first[0]}`), ...lines]);
  });
  svg.addEventListener("pointerleave", () => {
    cursor.replaceChildren();
    tip.style.display = "none";
  });
}

for (const svg of document.querySelectorAll("svg.map")) {
  const sprite = document.getElementById(svg.dataset.sprite);
  const circles = [...svg.querySelectorAll("circle")];
  const places = circles.map((c) => [c.cx.baseVal.value, c.cy.baseVal.value]);
  let near = null;
  const leave = () => {
    if (near) near.classList.remove("near");
    near = null;
    tip.style.display = "none";
  };
  svg.addEventListener("pointermove", (event) => {
    const p = at(svg, event);
    let best = -1, distance = 12 * 12;
    places.forEach(([x, y], i) => {
      const d = (x - p.x) ** 2 + (y - p.y) ** 2;
      if (d < distance) [best, distance] = [i, d];
    });
    leave();
    if (best < 0) return;
    near = circles[best];
    near.classList.add("near");
    const columns = Number(sprite.dataset.columns);
    const picture = document.createElement("div");
    picture.className = "thumbnail";
    picture.style.backgroundImage = `url(${sprite.src})`;
    picture.style.backgroundSize = `${columns * 64}px auto`;
    picture.style.backgroundPosition = `-${(best % columns) * 64}px -${Math.floor(best / columns) * 64}px`;
    show(event, [picture, line(near.dataset.l)]);
  });
  svg.addEventListener("pointerleave", leave);
}
