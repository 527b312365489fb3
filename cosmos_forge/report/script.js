"use strict";
// What a page can do besides being read: curves tell their values, and videos that belong together play together.

for (const svg of document.querySelectorAll("svg[data-curves]")) {
  const curves = JSON.parse(svg.dataset.curves), box = JSON.parse(svg.dataset.box);
  const cursor = document.createElementNS("http://www.w3.org/2000/svg", "line");
  cursor.setAttribute("class", "cursor");
  cursor.setAttribute("y1", 8);
  cursor.setAttribute("y2", 188);
  const reading = document.createElement("div");
  reading.className = "reading";

  const read = (event) => {
    const place = svg.getBoundingClientRect();
    const x = ((event.clientX - place.left) / place.width) * box.width;
    const share = Math.min(1, Math.max(0, (x - box.left) / (box.right - box.left)));
    const wanted = box.low + share * (box.high - box.low);
    let nearest = null;
    for (const curve of curves) {
      for (const [at] of curve.points) {
        if (nearest === null || Math.abs(at - wanted) < Math.abs(nearest - wanted)) nearest = at;
      }
    }
    const lines = [`step ${Number(nearest.toPrecision(6))}`];
    for (const curve of curves) {
      const point = curve.points.find(([at]) => at === nearest);
      if (point) lines.push(`${curve.name} ${Number(point[1].toPrecision(4))}`);
    }
    const inner = box.high > box.low ? (nearest - box.low) / (box.high - box.low) : 0.5;
    const line = box.left + inner * (box.right - box.left);
    cursor.setAttribute("x1", line);
    cursor.setAttribute("x2", line);
    svg.append(cursor);
    reading.replaceChildren(...lines.flatMap((text) => [text, document.createElement("br")]).slice(0, -1));
    reading.style.right = share < 0.5 ? "12px" : "auto";
    reading.style.left = share < 0.5 ? "auto" : "64px";
    svg.parentElement.append(reading);
  };
  svg.addEventListener("pointermove", read);
  svg.addEventListener("pointerdown", read);
  svg.addEventListener("pointerleave", () => { cursor.remove(); reading.remove(); });
}

// The bar of controls would hide half of a small video; it comes with the pointer.
for (const video of document.querySelectorAll("video")) {
  video.controls = false;
  video.addEventListener("pointerenter", () => { video.controls = true; });
  video.addEventListener("pointerleave", () => { video.controls = false; });
}

for (const button of document.querySelectorAll("button[data-together]")) {
  const videos = [...button.closest(".clip").querySelectorAll("video")];
  button.hidden = false;
  button.addEventListener("click", () => {
    const playing = videos.some((video) => !video.paused);
    for (const video of videos) {
      if (playing) { video.pause(); continue; }
      video.currentTime = 0;
      video.play();
    }
  });
  const tell = () => { button.textContent = videos.some((video) => !video.paused) ? "pause" : "play"; };
  for (const video of videos) { video.addEventListener("play", tell); video.addEventListener("pause", tell); }
}
