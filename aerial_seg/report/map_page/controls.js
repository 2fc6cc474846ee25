// What moves the map: the pointer, fingers, keys, and the controls beside it.
"use strict";

function watchPointer(map, readout) {
  const canvas = map.canvas, ratio = () => canvas.width / canvas.clientWidth, down = new Map();
  let apart = 0, swiping = false;
  const placed = (event) => {
    const box = canvas.getBoundingClientRect();
    return [(event.clientX - box.left) * ratio(), (event.clientY - box.top) * ratio()];
  };
  const distance = () => {
    const [one, other] = [...down.values()];
    return Math.hypot(one[0] - other[0], one[1] - other[1]);
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    const at = placed(event);
    swiping = Boolean(map.swiped) && down.size === 0 && Math.abs(at[0] - map.swipeAt * canvas.width) < 14 * ratio();
    down.set(event.pointerId, at);
    if (down.size === 2) apart = distance();
  });
  canvas.addEventListener("pointermove", (event) => {
    const at = placed(event), before = down.get(event.pointerId);
    readout.textContent = map.tell(...at) ?? "";
    if (!before) return;
    down.set(event.pointerId, at);
    if (down.size === 2) {
      const now = distance(), [one, other] = [...down.values()];
      if (apart > 0) map.zoom(now / apart, (one[0] + other[0]) / 2, (one[1] + other[1]) / 2);
      apart = now;
    } else if (swiping) {
      swipeTo(map, at[0] / canvas.width);
    } else {
      map.move(before[0] - at[0], before[1] - at[1]);
    }
  });
  for (const name of ["pointerup", "pointercancel"])
    canvas.addEventListener(name, (event) => {
      down.delete(event.pointerId);
      apart = 0;
    });
  canvas.addEventListener("pointerleave", () => (readout.textContent = ""));
  canvas.addEventListener(
    "wheel",
    (event) => {
      // The page scrolls until the map is meant: it has been touched, or a key is held.
      if (document.activeElement !== canvas && !event.ctrlKey && !event.metaKey) return;
      event.preventDefault();
      map.zoom(Math.exp(-Math.sign(event.deltaY) * 0.25), ...placed(event));
    },
    { passive: false }
  );
  canvas.addEventListener("dblclick", (event) => map.zoom(event.shiftKey ? 0.5 : 2, ...placed(event)));
}

function swipeTo(map, share) {
  map.swipeAt = Math.min(1, Math.max(0, share));
  const range = document.getElementById("swipe-at");
  range.value = String(Math.round(100 * map.swipeAt));
  map.draw();
}

function watchKeys(map, readout) {
  const canvas = map.canvas;
  const step = () => 0.1 * Math.min(canvas.width, canvas.height);
  const keys = {
    ArrowLeft: () => map.move(-step(), 0),
    ArrowRight: () => map.move(step(), 0),
    ArrowUp: () => map.move(0, -step()),
    ArrowDown: () => map.move(0, step()),
    "+": () => map.zoom(1.5),
    "=": () => map.zoom(1.5),
    "-": () => map.zoom(1 / 1.5),
    0: () => map.fit(),
    "[": () => swipeTo(map, map.swipeAt - 0.02),
    "]": () => swipeTo(map, map.swipeAt + 0.02),
  };
  canvas.addEventListener("keydown", (event) => {
    const act = keys[event.key];
    if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    act();
    readout.textContent = map.tell(canvas.width / 2, canvas.height / 2) ?? "";
  });
}

function watchControls(map) {
  const change = (selector, name, act) => {
    for (const one of document.querySelectorAll(selector)) one.addEventListener(name, () => act(one));
  };
  for (const box of document.querySelectorAll("input[data-layer]")) {
    const layer = map.layers[box.dataset.layer];
    layer.visible = box.checked;
    const slider = document.querySelector(`input[data-opacity="${box.dataset.layer}"]`);
    layer.opacity = Number(slider.value) / 100;
  }
  change("input[data-layer]", "change", (box) => {
    map.layers[box.dataset.layer].visible = box.checked;
    map.draw();
  });
  change("input[data-opacity]", "input", (slider) => {
    map.layers[slider.dataset.opacity].opacity = Number(slider.value) / 100;
    map.draw();
  });
  const repaint = () => ["map", "labels"].forEach((layer) => map.paint(layer));
  change("input[data-class]", "change", (box) => {
    map.shownClasses[Number(box.dataset.class)] = box.checked;
    repaint();
  });
  change("button[data-classes]", "click", (button) => {
    const all = button.dataset.classes === "all";
    for (const box of document.querySelectorAll("input[data-class]")) box.checked = all;
    map.shownClasses.fill(all);
    repaint();
  });
  change("#errors-of", "change", (select) => {
    map.errorsOf = Number(select.value);
    map.paint("errors");
  });
  change("#swipe", "change", (select) => {
    map.swiped = select.value;
    document.getElementById("swipe-at").disabled = !select.value;
    if (select.value) {
      const box = document.querySelector(`input[data-layer="${select.value}"]`);
      if (!box.checked) box.click();
    }
    map.draw();
  });
  change("#swipe-at", "input", (range) => swipeTo(map, Number(range.value) / 100));
  change("#zoom-in", "click", () => map.zoom(1.5));
  change("#zoom-out", "click", () => map.zoom(1 / 1.5));
  change("#zoom-fit", "click", () => map.fit());
  change("button[data-place]", "click", (button) => {
    map.go(Number(button.dataset.place));
    document.getElementById("map").scrollIntoView();
    map.canvas.focus({ preventScroll: true });
  });
}

async function startMap() {
  const holder = document.getElementById("data");
  if (!holder) return;
  const canvas = document.getElementById("view"), readout = document.getElementById("readout");
  const map = new MapView(JSON.parse(holder.textContent), canvas, document.getElementById("swipe-line"));
  await map.load();
  watchControls(map);
  watchPointer(map, readout);
  watchKeys(map, readout);
  new ResizeObserver(() => map.resize()).observe(canvas);
  map.resize();
  map.fit();
  map.drawNow();
  document.documentElement.dataset.ready = "map";
}
