// Sends dropped, pasted, chosen or photographed pictures to the server, and draws its answers: bars, and the evidence
// for the predicted class over the picture. Nothing leaves for another server.
const by = id => document.getElementById(id);
const LARGEST_SIDE = 800; // pixels of a drawn picture
const kept = use => { // a browser that keeps nothing throws an error
  try {
    return use(sessionStorage);
  } catch {
    return null;
  }
};
let token = kept(storage => storage.getItem("token")) ?? "";
let isReady = false;
let most = Infinity; // bytes of a file: of a larger one, a slow connection is cut before it has the answer

const ask = async (path, options = {}) => {
  const headers = token ? {authorization: `Bearer ${token}`} : {};
  let answer;
  try {
    answer = await fetch(path, {...options, headers: {...headers, ...options.headers}});
  } catch {
    throw new Error("the server does not answer; is it still running?");
  }
  const found = await answer.json().catch(() => ({}));
  if (answer.status === 401) by("token-form").hidden = false;
  if (!answer.ok) throw new Error(found.error ?? `the server answered ${answer.status}`);
  return found;
};

const say = (text, isProblem = false) => {
  by("status").textContent = text;
  by("status").classList.toggle("problem", isProblem);
};

const start = async () => {
  // An anonymous request to a server with a token is refused; asking without one would be an error on the console.
  const {needs_token: needsToken, max_bytes: mostOfServer} = await ask("/readyz");
  most = mostOfServer;
  if (needsToken && !token) {
    by("token-form").hidden = false;
    by("token").focus();
    say("This server needs a token.");
    return;
  }
  const {models} = await ask("/models");
  by("token-form").hidden = true;
  by("model").replaceChildren(...models.map(({model}) => new Option(model, model)));
  by("model-choice").hidden = models.length < 2;
  await describe();
  isReady = true;
  say("");
};

const describe = async () => {
  const {model, network, classes} = await ask(`/model?model=${encodeURIComponent(by("model").value)}`);
  const names = classes.slice(0, 12).join(", ") + (classes.length > 12 ? ", …" : "");
  by("about").textContent = `${model}, a ${network || "network"}, knows ${classes.length} classes: ${names}`;
};

function percent(share) {
  if (share > 0.9999 && share < 1) return "> 99.99 %";
  if (share < 0.0001 && share > 0) return "< 0.01 %";
  const digits = share < 0.1 || (share > 0.999 && share < 1) ? 2 : 1; // 99.96 % is not 100 %
  return `${(100 * share).toFixed(digits)} %`;
}

const bar = ({name, probability}) => {
  const row = document.createElement("li");
  const label = document.createElement("span");
  const share = document.createElement("span");
  const line = document.createElement("progress");
  label.textContent = name;
  share.textContent = percent(probability);
  share.className = "share";
  line.value = probability;
  line.setAttribute("aria-label", `${name}: ${percent(probability)}`);
  row.append(label, share, line);
  return row;
};

// The part of a picture that the map covers, as x, y, width, height. It may begin outside: "pad" adds borders.
const covered = ({fit, resize_to: stored, image_size: input}, width, height) => {
  const sides = {
    crop: [Math.min(width, height), Math.min(width, height)],
    pad: [Math.max(width, height), Math.max(width, height)],
    squash: [width, height],
  }[fit].map(side => (side * input) / stored);
  return [(width - sides[0]) / 2, (height - sides[1]) / 2, ...sides];
};

// A map of evidence as colours: transparent where there is none, then yellow to red.
const coloured = async base64 => {
  const bytes = Uint8Array.from(atob(base64), letter => letter.charCodeAt(0));
  const grey = await createImageBitmap(new Blob([bytes], {type: "image/png"}));
  const canvas = new OffscreenCanvas(grey.width, grey.height);
  const context = canvas.getContext("2d");
  context.drawImage(grey, 0, 0);
  const pixels = context.getImageData(0, 0, grey.width, grey.height);
  for (let at = 0; at < pixels.data.length; at += 4) {
    const value = pixels.data[at] / 255;
    pixels.data.set([255, 235 * (1 - value), 40 * (1 - value), 190 * Math.min(1, 1.4 * value)], at);
  }
  context.putImageData(pixels, 0, 0);
  return canvas;
};

const draw = (canvas, picture, evidence, covers) => {
  const scale = Math.min(1, LARGEST_SIDE / Math.max(picture.width, picture.height));
  // Tiny pictures are enlarged without blur, so that their pixels can be seen.
  const enlarged = Math.max(picture.width, picture.height) < 100 ? Math.floor(320 / Math.max(picture.width, picture.height)) : 1;
  canvas.width = Math.max(1, Math.round(picture.width * scale * enlarged));
  canvas.height = Math.max(1, Math.round(picture.height * scale * enlarged));
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = enlarged === 1;
  context.drawImage(picture, 0, 0, canvas.width, canvas.height);
  if (evidence) {
    context.imageSmoothingEnabled = true;
    context.drawImage(evidence, ...covered(covers, canvas.width, canvas.height));
  }
};

const predict = async file => {
  if (file.size > most) throw new Error(`it is larger than ${most / 1e6} MB, the most that this server takes`);
  const head = await file.slice(0, 1).arrayBuffer().catch(() => new ArrayBuffer(0));
  if (!head.byteLength) throw new Error("it cannot be read: it is empty, gone, or a folder");
  const model = encodeURIComponent(by("model").value);
  const body = {method: "POST", body: file, headers: {"content-type": "application/octet-stream"}};
  const found = await ask(`/predict?model=${model}`, body);
  const item = by("result").content.cloneNode(true).querySelector("li");
  const [canvas, note, overlay] = ["canvas", ".note", ".overlay"].map(name => item.querySelector(name));
  const [{name, probability}] = found.top;
  item.querySelector("h2").textContent = found.rejected ? "None of these" : name;
  const steps = Object.values(found.milliseconds).reduce((sum, step) => sum + step, 0);
  note.textContent = found.rejected
    ? `The most probable class, ${name}, is below the threshold of this model.`
    : `${percent(probability)}, computed in ${steps.toFixed(1)} ms`;
  item.querySelector("figcaption").textContent = file.name || "picture";
  item.querySelector(".bars").append(...found.top.map(bar));
  canvas.setAttribute("aria-label", `The picture ${file.name || ""}`);
  by("results").prepend(item);
  const picture = await createImageBitmap(file).catch(() => null);
  if (!picture) { // a format that the server reads and the browser does not
    item.querySelector("figure").replaceChildren(`${file.name}: this browser cannot show the picture.`);
    return;
  }
  draw(canvas, picture);
  const {map, covers} = await ask(`/explain?model=${model}&class=${encodeURIComponent(name)}`, body);
  const evidence = await coloured(map);
  const box = overlay.querySelector("input");
  const redraw = () => {
    draw(canvas, picture, box.checked ? evidence : null, covers);
    const over = box.checked ? ` with the evidence for ${name} in yellow and red` : "";
    canvas.setAttribute("aria-label", `The picture ${file.name || ""}${over}`);
  };
  box.addEventListener("change", redraw);
  overlay.hidden = false;
  redraw();
};

const predictAll = async files => {
  if (!isReady) return;
  const problems = [];
  for (const [number, file] of [...files].entries()) {
    say(`Predicting ${number + 1} of ${files.length} …`);
    await predict(file).catch(problem => problems.push(`${file.name}: ${problem.message}`));
  }
  say(problems.length ? problems.join("\n") : "Done.", problems.length > 0);
};

const choose = input => {
  input.addEventListener("change", () => {
    predictAll([...input.files]);
    input.value = "";
  });
  return () => input.click();
};

// The camera in the page; where the page may not use it, the picker of the phone, which has one.
const [pickFiles, pickCapture] = [choose(by("files")), choose(by("capture"))];
let stream = null;
let isOpening = false; // a second click would start a second stream, which nothing stops

const openCamera = async () => {
  if (isOpening) return;
  isOpening = true;
  try {
    stream = await navigator.mediaDevices.getUserMedia({video: {facingMode: "environment"}});
  } catch {
    pickCapture();
    return;
  } finally {
    isOpening = false;
  }
  by("video").srcObject = stream;
  by("camera").showModal();
  await by("video").play();
};

const shoot = async () => {
  const video = by("video");
  if (!video.videoWidth) return; // the camera has not begun
  const canvas = new OffscreenCanvas(video.videoWidth, video.videoHeight);
  canvas.getContext("2d").drawImage(video, 0, 0);
  const file = new File([await canvas.convertToBlob({type: "image/jpeg", quality: 0.95})], "camera.jpg");
  by("camera").close();
  await predictAll([file]);
};

by("choose").addEventListener("click", pickFiles);
by("take").addEventListener("click", openCamera);
by("shoot").addEventListener("click", shoot);
by("leave").addEventListener("click", () => by("camera").close());
by("camera").addEventListener("close", () => {
  stream?.getTracks().forEach(track => track.stop());
  by("video").srcObject = null;
});
by("model").addEventListener("change", () => describe().catch(problem => say(problem.message, true)));
by("token-form").addEventListener("submit", event => {
  event.preventDefault();
  const given = by("token").value.trim();
  if (/[^\x21-\x7e]/.test(given)) { // no header can have it, and the request would fail like one without a server
    say("This has a character that no token has; copy it again.", true);
    return;
  }
  token = given;
  kept(storage => storage.setItem("token", token));
  start().catch(problem => say(problem.message, true));
});
addEventListener("paste", event => {
  const files = [...event.clipboardData.files].filter(file => file.type.startsWith("image/"));
  if (files.length) predictAll(files);
});
for (const name of ["dragenter", "dragover"]) {
  addEventListener(name, event => {
    event.preventDefault();
    by("drop").classList.add("over");
  });
}
for (const name of ["dragleave", "drop"]) addEventListener(name, () => by("drop").classList.remove("over"));
addEventListener("drop", event => {
  event.preventDefault();
  const files = [...event.dataTransfer.files];
  if (files.length) predictAll(files);
  else say("What you dropped has no file in it; save the picture first, and drop the file.", true);
});
start().catch(problem => say(problem.message, true));
